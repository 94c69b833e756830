package continuation

// sgLang knows the same option as vLLM.
var sgLang = vLLM
