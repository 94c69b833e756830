//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// example starts a master with a file of examples/, in which every vllm is the
// built-in engine.
func example(t *testing.T, name string) *master {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "examples", name, "stoker.toml"))
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script := fmt.Sprintf(`#!/bin/sh
version=$(basename "$2")
while [ $# -gt 0 ]; do
	case $1 in
	--served-model-name) model=$2 ;;
	--uds) socket=$2 ;;
	esac
	shift
done
exec %q engine --name "$version" --model "$model" --socket "$socket" --load-time 0s --decode-rate 0 --prefill-rate 0
`, binary)
	if err := writeProgram(filepath.Join(bin, "vllm"), []byte(script)); err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(string(text), "listen = [\"127.0.0.1:8000\"]\n", "", 1)
	return startAs(t, config, setup{args: []string{"run", "-c", "{config}"}, env: []string{"PATH=" + bin + ":" + os.Getenv("PATH")}}).allReady()
}

// bothVersions are clients of HTTP/1.1 and HTTP/2.
func bothVersions(t *testing.T) map[string]*http.Client {
	t.Helper()
	clients := map[string]*http.Client{}
	for version := 1; version <= 2; version++ {
		p := new(http.Protocols)
		p.SetHTTP1(version == 1)
		p.SetUnencryptedHTTP2(version == 2)
		transport := &http.Transport{Protocols: p}
		t.Cleanup(transport.CloseIdleConnections)
		clients[fmt.Sprintf("HTTP/%d", version)] = &http.Client{Transport: transport, Timeout: answerLimit}
	}
	return clients
}

// chat sends a completion's body and returns the answer and the engine's name.
func (m *master) chat(client *http.Client, body string, fields ...string) (status int, engine, id, text string) {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), http.MethodPost, m.url("/v1/chat/completions"), strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	engine, _, _ = strings.Cut(resp.Header.Get("X-Engine"), "/")
	return resp.StatusCode, engine, resp.Header.Get("X-Request-Id"), string(raw)
}

// chatBody asks for a model behind a prompt of some size.
func chatBody(model string, prompt int) string {
	return fmt.Sprintf(`{"messages":[{"role":"user","content":"%s"}],"max_tokens":2,"model":%q}`, strings.Repeat(`say \"hi\" `, prompt/11+1), model)
}

// TestTwoModels runs examples/two-models.
func TestTwoModels(t *testing.T) {
	waits(t)
	m := example(t, "two-models")
	for version, client := range bothVersions(t) {
		for _, c := range []struct {
			body   string
			status int
			engine string
			route  string
			says   string
		}{
			{chatBody("qwen3", 10), 200, "Qwen3-8B", "qwen", `"model":"qwen3"`},
			{chatBody("llama-3.1", 10), 200, "Llama-3.1-8B-Instruct", "llama", `"model":"llama-3.1"`},
			{chatBody("llama-3.1", 1<<20), 200, "Llama-3.1-8B-Instruct", "llama", `"model":"llama-3.1"`},
			{chatBody("gpt-4o", 10), 200, "Qwen3-8B", "qwen", `"model":"qwen3"`},
			{chatBody("gpt-4o", 1<<20), 200, "Qwen3-8B", "qwen", `"model":"qwen3"`},
			{chatBody("gpt-4", 10), 404, "", "", `"code":"model_not_found"`},
			{`{"messages":[]}`, 400, "", "", `"code":"model_required"`},
			{`{"model":"qwen3","model":"llama-3.1"}`, 400, "", "", `"code":"model_twice"`},
			{chatBody("qwen3", 9<<20), 413, "", "", `"code":"body_too_large"`},
		} {
			status, engine, id, text := m.chat(client, c.body)
			if status != c.status || engine != c.engine || !strings.Contains(strings.ReplaceAll(text, " ", ""), c.says) {
				t.Errorf("%s, %.60s: got %d of %q: %.300s", version, c.body, status, engine, text)
			}
			if line := m.accessLine(id); line["route"] != c.route {
				t.Errorf("%s, %.60s: access log has %v", version, c.body, line)
			}
		}
		resp, err := client.Get(m.url("/v1/models"))
		if err != nil {
			t.Fatal(err)
		}
		var models struct {
			Object string
			Data   []struct{ ID, Object string }
		}
		err = json.NewDecoder(resp.Body).Decode(&models)
		resp.Body.Close()
		if err != nil || models.Object != "list" || fmt.Sprint(models.Data) != "[{gpt-4o model} {qwen3 model} {llama-3.1 model}]" {
			t.Errorf("%s: models %+v, %v", version, models, err)
		}
	}
	if n := m.metric("stoker_route_requests_total", `route="qwen"`, `code="200"`); n != 6 {
		t.Errorf("%v requests counted for the route qwen, want 6", n)
	}
	for _, where := range [][]string{nil, {"-c", filepath.Join(m.cmd.Dir, "stoker.toml")}, {"--running", "-c", filepath.Join(m.cmd.Dir, "stoker.toml")}} {
		text := m.mustCommand(append([]string{"route", "POST", "http://h/v1/chat/completions", "--model", "gpt-4o"}, where...)...)
		for _, line := range []string{"#1: path is ", "#2 qwen: matches", "→ pool qwen", `→ the engine is told model "qwen3"`} {
			if !strings.Contains(text, line) {
				t.Errorf("stoker route %v says\n%s", where, text)
			}
		}
	}
	if text, code := m.command("route", "POST", "/v1/x", "--model", "nobody", "--json"); code != 1 || !strings.Contains(text, `"model_not_found"`) {
		t.Errorf("stoker route: exit code %d:\n%s", code, text)
	}
	m.stop()
}

// TestCanary runs examples/canary, and gives the canary more by a reload.
func TestCanary(t *testing.T) {
	waits(t)
	m := example(t, "canary")
	client := bothVersions(t)["HTTP/1"]
	share := func() (canary int) {
		for range 100 {
			status, engine, _, text := m.chat(client, chatBody("chat", 10))
			if status != 200 {
				t.Fatalf("got %d: %s", status, text)
			}
			if engine == "chat-8" {
				canary++
			}
		}
		return canary
	}
	if n := share(); n < 4 || n > 6 {
		t.Errorf("%d of 100 requests went to a canary of 5%%", n)
	}
	if _, engine, _, _ := m.chat(client, chatBody("chat", 10), "X-Canary", "1"); engine != "chat-8" {
		t.Errorf("a tester got %s", engine)
	}
	before := m.status()
	m.rewrite("weight = 95", "weight = 1", "weight = 5", "weight = 1")
	if text := m.mustCommand("reload"); !strings.Contains(text, "weight = 95") || !strings.Contains(text, "0 restarted") {
		t.Errorf("reload says\n%s", text)
	}
	if n := share(); n < 49 || n > 51 {
		t.Errorf("%d of 100 requests went to a canary of half", n)
	}
	for i, p := range m.status().Pools {
		for j, w := range p.Workers {
			if w.PID != before.Pools[i].Workers[j].PID {
				t.Errorf("%s was restarted", w.Name)
			}
		}
	}
	m.rewrite("weight = 1\n", "weight = 0\n", "weight = 1\n", "weight = 0\n")
	if text, code := m.command("reload"); code == 0 || !strings.Contains(text, "give at least one of them a weight") {
		t.Errorf("weights of zero: exit code %d:\n%s", code, text)
	}
	m.stop()
}

// TestModelsOfWhatIsThere: an engine that is down is left out of the list, and
// the others answer at once.
func TestModelsOfWhatIsThere(t *testing.T) {
	waits(t)
	m := start(t, fmt.Sprintf("[[pools]]\nname = \"up\"\ncommand = %s\n[[pools]]\nname = \"down\"\ncommand = %s\n[[routes]]\nlist_models = true\n[[routes]]\nmodels = [\"x\"]\npool = \"down\"\n[[routes]]\npool = \"up\"\n",
		list(binary, "engine", "--socket", "{socket}", "--model", "there", "--load-time", "0s"),
		list(binary, "engine", "--socket", "{socket}", "--never-ready")))
	m.eventually("the models of what is there", func() bool {
		if !m.answersAdmin() {
			return false
		}
		a := (&caller{address: m.address}).get("/v1/models")
		return a.status == 200 && strings.Contains(string(a.body), `"there"`) && strings.Count(string(a.body), `"id"`) == 1
	})
	m.stop()
}
