// Package e2e tests the built binary from outside: it starts it as a user
// would, puts real engines behind it and real clients before it, and believes
// only what those see. It imports nothing of ours.
//
// Its tests are behind the build tag e2e (make e2e). A test whose real part is
// missing is skipped and says what to install; with STOKER_E2E_REQUIRE=1 a
// missing part is a failure. Where the parts are is told by the environment,
// each with a default:
//
//	STOKER_E2E_BINARY         a stoker to test; default: built from this tree
//	STOKER_E2E_RACE           1: build it with the race detector
//	STOKER_E2E_FLOOD          how long an engine floods its output without a master; default 8s
//	STOKER_E2E_STREAM         how long the streams last that upgrades must not cut; default 1s
//	STOKER_E2E_PYTHON         a Python with uvicorn and FastAPI
//	STOKER_E2E_LLAMA_SERVER   the words of a command that runs llama-server
//	STOKER_E2E_LLAMA_MODEL    a GGUF model for it, the smaller the better
//	STOKER_E2E_PYTHON_OPENAI  the words of a command that runs a Python with openai
//	STOKER_E2E_SYSTEMD_SANDBOX  the words of a command that boots a private systemd, copies a directory's
//	                            units into it and runs a program beside it: COMMAND DIR -- PROGRAM...
//	STOKER_E2E_NODE_MODULES   a node_modules directory with openai in it
package e2e
