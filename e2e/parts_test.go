//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// missing skips the test out loud, or fails it where every part is required.
func missing(t *testing.T, what, install string) {
	t.Helper()
	if os.Getenv("STOKER_E2E_REQUIRE") == "1" {
		t.Fatalf("%s is missing, and STOKER_E2E_REQUIRE=1 requires it; install it: %s", what, install)
	}
	t.Skipf("SKIPPED: %s is missing; install it: %s", what, install)
}

// python returns a Python that has uvicorn and FastAPI.
func python(t *testing.T) string {
	t.Helper()
	candidates := []string{os.Getenv("STOKER_E2E_PYTHON")}
	if candidates[0] == "" {
		// Debian's own comes first: a version manager's Python in front of it
		// in PATH does not see Debian's packages.
		candidates = []string{"/usr/bin/python3", "python3"}
	}
	for _, candidate := range candidates {
		if exec.Command(candidate, "-c", "import uvicorn, fastapi").Run() == nil {
			return candidate
		}
	}
	missing(t, "a Python with uvicorn and FastAPI", "apt-get install uvicorn python3-fastapi (or set STOKER_E2E_PYTHON)")
	return ""
}

// tool returns the path of a program.
func tool(t *testing.T, name, install string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name, install)
	}
	return path
}

// llama returns the command of a llama-server with a model, without its port.
func llama(t *testing.T) []string {
	t.Helper()
	const install = "llama.cpp's llama-server and a small GGUF model; set STOKER_E2E_LLAMA_SERVER and STOKER_E2E_LLAMA_MODEL"
	command := strings.Fields(os.Getenv("STOKER_E2E_LLAMA_SERVER"))
	if len(command) == 0 {
		command = []string{"llama-server"}
	}
	model := os.Getenv("STOKER_E2E_LLAMA_MODEL")
	if model == "" || exec.Command(command[0], append(command[1:], "--version")...).Run() != nil {
		missing(t, "llama-server with a model", install)
	}
	return append(command, "-m", model)
}

// pythonOpenAI returns the command of a Python that has the openai client.
func pythonOpenAI(t *testing.T) []string {
	t.Helper()
	command := strings.Fields(os.Getenv("STOKER_E2E_PYTHON_OPENAI"))
	if len(command) == 0 {
		command = []string{"python3"}
	}
	if exec.Command(command[0], append(command[1:], "-c", "import openai")...).Run() != nil {
		missing(t, "the openai client for Python", "pip install openai (or set STOKER_E2E_PYTHON_OPENAI)")
	}
	return command
}

// nodeModules returns a node_modules directory that holds the openai client.
func nodeModules(t *testing.T) string {
	t.Helper()
	return nodeModule(t, "openai")
}

// nodeModule returns a node_modules directory that holds a package.
func nodeModule(t *testing.T, name string) string {
	t.Helper()
	tool(t, "node", "apt-get install nodejs")
	dir := os.Getenv("STOKER_E2E_NODE_MODULES")
	if dir == "" {
		if global, err := exec.Command("npm", "root", "--global").Output(); err == nil {
			dir = strings.TrimSpace(string(global))
		}
	}
	if _, err := os.Stat(dir + "/" + name + "/package.json"); err != nil {
		missing(t, name+" for Node", "npm install "+name+", and set STOKER_E2E_NODE_MODULES to its node_modules")
	}
	return dir
}
