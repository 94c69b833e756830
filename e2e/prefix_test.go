//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

// TestPrefixesFindTheirCache lets real llama-servers say how much of the prompts
// of conversations they had already, by prefix and without. Each engine holds two
// conversations and no more, as a GPU holds what fits.
func TestPrefixesFindTheirCache(t *testing.T) {
	works(t)
	command := append(llama(t), "--host", "127.0.0.1", "--port", "{port}", "-c", "4096", "-np", "2", "--threads", "1", "--cache-ram", "0")
	share := func(t *testing.T, affinity string) float64 {
		t.Helper()
		m := start(t, "[[pools]]\nname = \"llama\"\nworkers = 2\nhealth.path = \"/health\"\n"+affinity+"command = "+list(command...)+"\n").allReady()
		defer m.stop()
		tell := newTalk(m, 4)
		for range 5 {
			tell.round(t)
		}
		busiest := max(m.metric("stoker_requests_total", `worker="llama-0"`), m.metric("stoker_requests_total", `worker="llama-1"`))
		if total := m.metric("stoker_requests_total", `pool="llama"`); busiest > 1.25*total/2 {
			t.Errorf("%v of %v requests are on one worker", busiest, total)
		}
		if affinity != "" {
			if hits := m.metric("stoker_affinity_requests_total", `result="hit"`); hits < 12 {
				t.Errorf("%v of 16 later turns found their beginning", hits)
			}
		}
		if cached, all := m.metric("stoker_prompt_tokens_total", `cached="yes"`), m.metric("stoker_prompt_tokens_total", `pool="llama"`); cached != float64(tell.cached) || all != float64(tell.prompt) {
			t.Errorf("stoker has counted %v of %v tokens as cached, clients %d of %d", cached, all, tell.cached, tell.prompt)
		}
		tell.stream(t)
		if first := m.metric("stoker_time_to_first_token_seconds_count", `pool="llama"`); first != 1 {
			t.Errorf("%v first tokens of one stream", first)
		}
		if text := m.statusTable(); !strings.Contains(text, "BETWEEN TOKENS") || !strings.Contains(text, " ms") {
			t.Errorf("status says\n%s", text)
		}
		return float64(tell.cached) / float64(tell.prompt)
	}
	without, with := share(t, ""), share(t, "affinity.by = \"prefix\"\n")
	t.Logf("of the prompts, %.0f %% were in a cache by least outstanding, %.0f %% by prefix", 100*without, 100*with)
	if with < 2*without || with < 0.4 {
		t.Errorf("%.2f of the prompts were in a cache by prefix, %.2f without", with, without)
	}
}

// TestPrefixesOutliveAnUpgrade: conversations go on where they were when another
// generation serves them, but for those whose engine is another by then.
func TestPrefixesOutliveAnUpgrade(t *testing.T) {
	waits(t)
	u := startUpgradable(t, "")
	u.editConfig("health.interval", "affinity.by = \"prefix\"\naffinity.load_percent = 1000\nhealth.interval")
	u.mustCommand("reload")
	const conversations = 24
	turn := func(n int) (hits float64) {
		before := u.metric("stoker_affinity_requests_total", `result="hit"`)
		for i := range conversations {
			said := strings.Repeat(fmt.Sprintf("Conversation %d goes on. ", i), 50) + strings.Repeat(fmt.Sprintf("Turn %d. ", n), 10)
			body, _ := json.Marshal(map[string]any{"messages": []map[string]string{{"role": "user", "content": said}}})
			response, err := http.Post(u.url("/work"), "application/json", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		return u.metric("stoker_affinity_requests_total", `result="hit"`) - before
	}
	turn(0)
	if hits := turn(1); hits != conversations {
		t.Fatalf("%v of %d second turns found their beginning", hits, conversations)
	}
	u.installVersion(1)
	u.mustUpgrade()
	u.eventually("the generation before has told all and left", func() bool {
		_, body, err := u.admin("/status")
		return err == nil && !strings.Contains(body, `"older"`)
	})
	if hits := turn(2); hits != conversations {
		t.Errorf("%v of %d turns found their beginning after an upgrade", hits, conversations)
	}
	u.endAll()
}

// talk is several conversations at a time, one request after the other.
type talk struct {
	m              *master
	conversations  [][]map[string]string
	random         *rand.Rand
	prompt, cached int // tokens, as the engine counts them
}

func newTalk(m *master, n int) *talk {
	t := &talk{m: m, conversations: make([][]map[string]string, n), random: rand.New(rand.NewPCG(1, 2))}
	for i := range t.conversations {
		t.conversations[i] = []map[string]string{{"role": "system", "content": strings.Repeat(fmt.Sprintf("You are reader number %d of this. ", i), 8)}}
	}
	return t
}

// stream lets the engine tell one answer token by token.
func (c *talk) stream(t *testing.T) {
	t.Helper()
	answer, err := http.Post(c.m.url("/v1/chat/completions"), "application/json", strings.NewReader(`{"messages":[{"role":"user","content":"Tell me of fire."}],"max_tokens":16,"stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || !bytes.HasSuffix(text, []byte("data: [DONE]\n\n")) {
		t.Fatalf("%v: %s", err, text)
	}
}

// round is a turn of each, in an order that is drawn.
func (c *talk) round(t *testing.T) {
	t.Helper()
	for _, i := range c.random.Perm(len(c.conversations)) {
		messages := &c.conversations[i]
		*messages = append(*messages, map[string]string{"role": "user", "content": strings.Repeat(fmt.Sprintf("Part %d of tale %d. ", len(*messages), i), 6)})
		body, err := json.Marshal(map[string]any{"messages": *messages, "max_tokens": 4, "temperature": 0})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.Post(c.m.url("/v1/chat/completions"), "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		var said struct {
			Choices []struct {
				Message struct{ Content string }
			}
			Usage struct {
				PromptTokens int `json:"prompt_tokens"`
				Details      struct {
					CachedTokens int `json:"cached_tokens"`
				} `json:"prompt_tokens_details"`
			}
		}
		if err != nil || answer.StatusCode != http.StatusOK || json.Unmarshal(text, &said) != nil || len(said.Choices) == 0 {
			t.Fatalf("%d %v: %s", answer.StatusCode, err, text)
		}
		c.prompt, c.cached = c.prompt+said.Usage.PromptTokens, c.cached+said.Usage.Details.CachedTokens
		*messages = append(*messages, map[string]string{"role": "assistant", "content": said.Choices[0].Message.Content})
	}
}
