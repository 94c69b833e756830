package continuation

// vLLM sends the usage so far with each event when stream_options say so, and by
// return_token_ids (since 0.10.2) the tokens of each event's text in its choice, with those of
// the prompt in the first one's. Older ones ignore that.
var vLLM = Profile{ask: change{"stream_options", []byte(`{"include_usage":true,"continuous_usage_stats":true}`)}, strip: "usage", ids: "return_token_ids"}
