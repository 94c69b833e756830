package continuation

// llamaServer is llama.cpp's. It continues the assistant's message when asked by
// continue_final_message together with add_generation_prompt = false, and
// answers 400 to the first alone. Its timings count tokens: those of the prompt that were
// computed and those that were cached, and those of the answer. Its created is
// the time of each event, not of the answer.
//
// Of a completion's stream it does not say the tokens: return_tokens is heeded only
// in its own form (/completion), and log probabilities, which have them, leave out
// those of a character that is not whole.
var llamaServer = Profile{ask: change{"timings_per_token", []byte("true")}, strip: "timings"}
