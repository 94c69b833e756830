package continuation

// vLLM sends the usage so far with each event when stream_options say so.
var vLLM = Profile{ask: change{"stream_options", []byte(`{"include_usage":true,"continuous_usage_stats":true}`)}, strip: "usage"}
