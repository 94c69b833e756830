package continuation

// sgLang knows the same options as vLLM, and answers them in the same form; older
// ones ignore return_token_ids, and it is asked for with completions alone, since chats refuse it.
var sgLang = vLLM
