package front_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"stoker/balancer"
	"stoker/balancer/front"
	"stoker/config"
	"stoker/upstream"
)

// seen is what an engine was asked, as it tells it in its answer.
type seen struct {
	Engine, Method, Target, Host, Body string
	Length                             int64
	Header                             http.Header
}

// houses is a front over several pools with an engine each, whose answers say
// what it was asked.
type houses struct {
	addr    string
	records records
	members map[string]*upstream.Member
	update  func(routes []config.Route) error
	front   *front.Front
}

func startHouses(tb testing.TB, pools []string, o balancer.Options) *houses {
	tb.Helper()
	h := &houses{records: make(records, 1000), members: map[string]*upstream.Member{}}
	for _, name := range pools {
		engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { tell(w, r, name) })}
		l := listen(tb)
		served := make(chan error, 1)
		go func() { served <- engine.Serve(l) }()
		pool := upstream.NewPool(name, upstream.PoolOptions{QueueLength: 10, QueueTimeout: patience})
		m := pool.Add(name+"-0", 1)
		m.Reset(l.Addr().String())
		m.SetReady(true)
		h.members[name] = m
		o.Pools = append(o.Pools, balancer.Over(pool))
		tb.Cleanup(func() { _ = engine.Close(); <-served })
	}
	b, err := balancer.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	h.update = func(routes []config.Route) error {
		o.Routes = routes
		return b.Update(o)
	}
	f, err := front.New(front.Options{Handler: b, Observers: []front.Observer{h.records}})
	if err != nil {
		tb.Fatal(err)
	}
	h.front = f
	door := openDoor(tb)
	h.addr = door.Addr().String()
	served := make(chan error, 1)
	go func() { served <- f.Serve(door) }()
	tb.Cleanup(func() {
		_ = door.Close()
		f.Close()
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	return h
}

// tell answers with what was asked; models are those of the engine's name.
func tell(w http.ResponseWriter, r *http.Request, name string) {
	if r.URL.Path == "/v1/models" && r.Header.Get("X-Tell") == "" {
		fmt.Fprintf(w, `{"object":"list","data":[{"id":"%s-large","owned_by":%q,"n":1},{"id":"shared","owned_by":%q}]}`, name, name, name)
		return
	}
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Server", "engine")
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(seen{name, r.Method, r.RequestURI, r.Host, string(body), r.ContentLength, r.Header})
}

// proto is how a client speaks.
type proto struct {
	name   string
	client *http.Client
}

func protos(tb testing.TB) []proto {
	tb.Helper()
	plain := &http.Transport{DisableCompression: true}
	tb.Cleanup(plain.CloseIdleConnections)
	clients := []proto{{"HTTP/1.1", &http.Client{Transport: plain, Timeout: patience}}, {"HTTP/2", http2Client(tb)}}
	for _, p := range clients {
		p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return clients
}

// reading has no length that a client could know.
type reading struct{ io.Reader }

func TestRoutesOverBothFronts(t *testing.T) {
	prompt := strings.Repeat(`a \"quoted\" prompt\n`, 1<<20/20)
	routes := []config.Route{
		{Name: "wild", Host: "*.wild.test", Pool: "b"},
		{Name: "exact", Path: "/exact", Exact: true, Pool: "b"},
		{Name: "pattern", Path: "/t/{tenant}/*/v1", Pool: "b", Rewrite: "/{tenant}"},
		{Name: "root", Path: "/strip", Pool: "b", Rewrite: "/"},
		{Name: "post", Path: "/method", Methods: []string{"POST"}, Pool: "b"},
		{Name: "get", Path: "/method", Methods: []string{"GET"}, Pool: "a"},
		{Name: "tenant", Path: "/header", Headers: map[string]string{"X-Tenant": "acme"}, Pool: "b"},
		{Name: "prefix", Path: "/header", Headers: map[string]string{"X-Tenant": "ac*"}, Pool: "a"},
		{Name: "any", Path: "/header", Headers: map[string]string{"x-tenant": "*"}, Pool: "b"},
		{
			Name: "fields", Path: "/fields", Pool: "a",
			Request:  config.FieldChanges{Remove: []string{"cookie"}, Set: map[string]string{"X-Key": "ours"}, Add: map[string]string{"Via": "stoker"}},
			Response: config.FieldChanges{Remove: []string{"Server"}, Set: map[string]string{"Content-Type": "text/x"}, Add: map[string]string{"Vary": "Accept"}},
		},
		{Name: "redirect", Path: "/old/{id}", Redirect: "{scheme}://new.test/{id}{path}?{query}", RedirectStatus: 301},
		{Name: "self", Host: "self.test", Redirect: "{uri}"},
		{Name: "fixed", Path: "/fixed", Answer: config.Answer{Status: 418, Body: "teapot"}, Response: config.FieldChanges{Set: map[string]string{"X-Why": "tea"}}},
		{Name: "models", Host: "models.test", Path: "/v1/models", Exact: true, Methods: []string{"GET"}, ListModels: true},
		{Name: "small", Path: "/v1", Models: []string{"small"}, Pool: "a"},
		{Name: "large", Path: "/v1", Models: []string{"large*"}, Aliases: map[string]string{"gpt-4o": "large \"é\""}, Pool: "b", Rewrite: "/v2"},
		{Name: "fallback", Host: "any.test", Pool: "a"},
	}
	h := startHouses(t, []string{"a", "b"}, balancer.Options{Routes: routes, MaxAhead: 2 << 20})
	const host = "h.test"
	for _, tc := range []struct {
		name         string
		method, url  string // host, path and query
		body         string
		header       http.Header
		status       int
		engine       string // empty: none was asked
		target, says string // what it was asked for, where not the client's; what the answer's body has, and its Location
		sent         string // its body, where not the client's
		route        string
	}{
		{name: "wildcard", url: "a.b.wild.test/x", status: 200, engine: "b", route: "wild"},
		{name: "not the domain itself", url: "wild.test/x", status: 404, says: "no_route"},
		{name: "exact", url: host + "/exact?a", status: 200, engine: "b", route: "exact"},
		{name: "below exact", url: host + "/exact/x", status: 404, says: "no_route"},
		{name: "pattern", url: host + "/t/acme/x/v1/chat%2f?q=1", status: 200, engine: "b", target: "/acme/chat%2f?q=1", route: "pattern"},
		{name: "pattern wants a segment", url: host + "/t//x/v1", status: 404, says: "no_route"},
		{name: "stripped", url: host + "/strip/v1/x?y", status: 200, engine: "b", target: "/v1/x?y", route: "root"},
		{name: "stripped to nothing", url: host + "/strip?y", status: 200, engine: "b", target: "/?y", route: "root"},
		{name: "POST", method: "POST", url: host + "/method", body: "x", status: 200, engine: "b", route: "post"},
		{name: "GET", url: host + "/method", status: 200, engine: "a", route: "get"},
		{name: "DELETE", method: "DELETE", url: host + "/method", status: 404, says: "no_route"},
		{name: "header", url: host + "/header", header: http.Header{"X-Tenant": {"acme"}}, status: 200, engine: "b", route: "tenant"},
		{name: "the second of a header", url: host + "/header", header: http.Header{"X-Tenant": {"z", "acme"}}, status: 200, engine: "b", route: "tenant"},
		{name: "header's beginning", url: host + "/header", header: http.Header{"X-Tenant": {"acorn"}}, status: 200, engine: "a", route: "prefix"},
		{name: "header there", url: host + "/header", header: http.Header{"X-Tenant": {"b"}}, status: 200, engine: "b", route: "any"},
		{name: "no header", url: host + "/header", status: 404, says: "no_route"},
		{name: "redirect", url: host + "/old/7/x?q=%22", status: 301, says: "http://new.test/7/old/7/x?q=%22", route: "redirect"},
		{name: "redirect to nobody else", url: "self.test//evil.test/x", status: 308, says: "/evil.test/x", route: "self"},
		{name: "redirect to nobody else by a backslash", url: "self.test/%5Cevil.test", status: 308, says: "/%5Cevil.test", route: "self"},
		{name: "fixed", url: host + "/fixed", status: 418, says: "teapot", route: "fixed"},
		{name: "fixed, HEAD", method: "HEAD", url: host + "/fixed", status: 418, route: "fixed"},
		{name: "model", method: "POST", url: host + "/v1/chat", body: `{"model":"small"}`, status: 200, engine: "a", route: "small"},
		{name: "model's beginning", method: "POST", url: host + "/v1/chat", body: ` { "x" : [ {"model":"small"} ] , "model" : "large-2" } `, status: 200, engine: "b", target: "/v2/chat", route: "large"},
		{name: "model behind a large prompt", method: "POST", url: host + "/v1/chat", body: `{"prompt":"` + prompt + `","model":"small"}`, status: 200, engine: "a", route: "small"},
		{name: "alias", method: "POST", url: host + "/v1/chat", body: `{"n":1, "model" : "gpt-4o","x":"gpt-4o"}`, status: 200, engine: "b", target: "/v2/chat", sent: `{"n":1, "model" : "large \"é\"","x":"gpt-4o"}`, route: "large"},
		{name: "alias behind a large prompt", method: "POST", url: host + "/v1/chat", body: `{"prompt":"` + prompt + `","model":"gpt-4o"}`, status: 200, engine: "b", target: "/v2/chat", sent: `{"prompt":"` + prompt + `","model":"large \"é\""}`, route: "large"},
		{name: "unknown model", method: "POST", url: host + "/v1/chat", body: `{"model":"sm\u0061ller"}`, status: 404, says: "model_not_found"},
		{name: "unknown model, fallback", method: "POST", url: "any.test/v1/chat", body: `{"model":"other"}`, status: 200, engine: "a", route: "fallback"},
		{name: "model twice", method: "POST", url: "any.test/v1/chat", body: `{"model":"small","model":"large"}`, status: 400, says: "model_twice"},
		{name: "no model", method: "POST", url: host + "/v1/chat", body: `{"messages":[]}`, status: 400, says: "model_required"},
		{name: "no model, fallback", method: "POST", url: "any.test/v1/chat", body: `{"messages":[]}`, status: 200, engine: "a", route: "fallback"},
		{name: "no JSON", method: "POST", url: host + "/v1/chat", body: `model=small`, status: 400, says: "model_required"},
		{name: "compressed", method: "POST", url: host + "/v1/chat", header: http.Header{"Content-Encoding": {"gzip"}}, body: `{"model":"small"}`, status: 400, says: "compressed"},
		{name: "no body", url: host + "/v1/chat", status: 404, says: "no_route"},
		{name: "too large to be looked into", method: "POST", url: "any.test/v1/chat", body: `{"model":"small","p":"` + prompt + prompt + `"}`, status: 413, says: "body_too_large"},
		{name: "large where no model is wanted", method: "POST", url: "any.test/upload", body: prompt + prompt + prompt, status: 200, engine: "a", route: "fallback"},
	} {
		for _, p := range protos(t) {
			for _, sized := range []bool{true, false} {
				if tc.body == "" && !sized {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/sized %v", tc.name, p.name, sized), func(t *testing.T) {
					var body io.Reader
					if tc.body != "" {
						body = strings.NewReader(tc.body)
					}
					if !sized {
						body = reading{body}
					}
					where, rest, _ := strings.Cut(tc.url, "/")
					req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://"+h.addr+"/"+rest, body)
					if err != nil {
						t.Fatal(err)
					}
					req.Host = where
					req.URL.RawPath, _, _ = strings.Cut("/"+rest, "?")
					req.URL.Opaque = "//" + where + req.URL.RawPath
					if tc.header != nil {
						req.Header = tc.header.Clone()
					}
					resp, err := p.client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					answer, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err != nil || resp.StatusCode != tc.status {
						t.Fatalf("got %d %.200s, %v", resp.StatusCode, answer, err)
					}
					r := <-h.records
					if r.Route != tc.route || r.Status != tc.status {
						t.Errorf("record %+v", r)
					}
					if says := string(answer) + resp.Header.Get("Location"); tc.says != "" && tc.method != "HEAD" && !strings.Contains(says, tc.says) {
						t.Errorf("says %.200s", says)
					}
					if loc := resp.Header.Get("Location"); loc != "" && loc != tc.says {
						t.Errorf("sent to %q", loc)
					}
					if tc.engine == "" {
						if r.Attempts != 0 || r.Pool != "" {
							t.Errorf("an engine heard of it: %+v", r)
						}
						return
					}
					var got seen
					if err := json.Unmarshal(answer, &got); err != nil {
						t.Fatalf("%v in %.200s", err, answer)
					}
					target, sent := tc.target, tc.sent
					if target == "" {
						target = "/" + rest
					}
					if sent == "" {
						sent = tc.body
					}
					if got.Engine != tc.engine || got.Target != target || got.Host != where || got.Body != sent {
						t.Errorf("engine %s at %s was asked for %s with %.200q", got.Engine, got.Host, got.Target, got.Body)
					}
					if got.Length >= 0 && got.Length != int64(len(sent)) || sized && got.Length < 0 {
						t.Errorf("engine was told a length of %d", got.Length)
					}
				})
			}
		}
	}
	for _, p := range protos(t) {
		t.Run("fields/"+p.name, func(t *testing.T) {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.addr+"/fields", nil)
			req.Header = http.Header{"Cookie": {"a"}, "X-Key": {"theirs", "too"}, "Via": {"other"}}
			resp, err := p.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var got seen
			if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
				t.Fatal(err)
			}
			if got.Header.Get("Cookie") != "" || !slices.Equal(got.Header["X-Key"], []string{"ours"}) || !slices.Equal(got.Header["Via"], []string{"other", "stoker"}) {
				t.Errorf("engine got %v", got.Header)
			}
			if resp.Header.Get("Server") != "" || !slices.Equal(resp.Header["Content-Type"], []string{"text/x"}) || resp.Header.Get("Vary") != "Accept" {
				t.Errorf("client got %v", resp.Header)
			}
			<-h.records
		})
		t.Run("models/"+p.name, func(t *testing.T) {
			status, kind, body := p.get(t, h.addr, "models.test", "/v1/models")
			const want = `{"object":"list","data":[{"id":"b-large","owned_by":"b","n":1},{"id":"shared","owned_by":"b"},{"id":"a-large","owned_by":"a","n":1}]}`
			if status != http.StatusOK || kind != "application/json" || body != want {
				t.Errorf("got %d %s", status, body)
			}
			<-h.records
		})
	}
}

func (p *proto) get(t *testing.T, addr, host, path string) (status int, kind, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := p.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(body)
}

// A client that leaves, or dawdles, while its body is read for the model is
// noticed, and no engine hears of it.
func TestClientLeavesWhileItsBodyIsReadAhead(t *testing.T) {
	h := startHouses(t, []string{"a"}, balancer.Options{Routes: []config.Route{{Models: []string{"m"}, Pool: "a"}, {Pool: "a", Path: "/other"}}})
	gone := func(t *testing.T, status int) {
		t.Helper()
		select {
		case r := <-h.records:
			if r.Status != status || r.Attempts != 0 || r.Pool != "" {
				t.Errorf("record %+v", r)
			}
		case <-time.After(patience):
			t.Fatal("no record")
		}
	}
	for name, head := range map[string]string{"sized": "Content-Length: 100\r\n\r\n{\"model\":", "chunked": "Transfer-Encoding: chunked\r\n\r\n9\r\n{\"model\":\r\n"} {
		for _, hangUp := range []bool{true, false} {
			t.Run(fmt.Sprintf("HTTP/1.1 %s, hang up %v", name, hangUp), func(t *testing.T) {
				c, err := net.Dial("tcp", h.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				limits := front.DefaultLimits()
				if !hangUp {
					limits.Body = 300 * time.Millisecond
				}
				h.front.SetLimits(limits)
				_, _ = io.WriteString(c, "POST /v1 HTTP/1.1\r\nHost: a\r\n"+head)
				if hangUp {
					_ = c.Close()
					gone(t, 499)
					return
				}
				gone(t, http.StatusRequestTimeout)
			})
		}
	}
	h.front.SetLimits(front.DefaultLimits())
	t.Run("HTTP/2", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		body, client := io.Pipe()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+h.addr+"/v1", body)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			resp, err := http2Client(t).Do(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			done <- err
		}()
		_, _ = io.WriteString(client, `{"model":`)
		cancel()
		if err := <-done; err == nil {
			t.Error("it has an answer")
		}
		gone(t, 499)
	})
	t.Run("Expect", func(t *testing.T) {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		in := bufio.NewReader(c)
		_, _ = io.WriteString(c, "POST /v1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n")
		if line, err := in.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("%q, %v", line, err)
		}
		_, _ = in.ReadString('\n')
		_, _ = io.WriteString(c, `{"model":"m"}`)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", resp, err)
		}
		_ = resp.Body.Close()
		if r := <-h.records; r.Attempts != 1 || r.BytesIn != 13 {
			t.Errorf("record %+v", r)
		}
	})
}

// Weights change under load, and no request is lost by it.
func TestWeightsChangeUnderLoad(t *testing.T) {
	weights := func(a, b int) []config.Route {
		return []config.Route{{Split: []config.Share{{Pool: "a", Weight: a}, {Pool: "b", Weight: b}}}}
	}
	h := startHouses(t, []string{"a", "b"}, balancer.Options{Routes: weights(1, 0)})
	for _, p := range protos(t) {
		for i, w := range [][2]int{{1, 0}, {1, 1}, {0, 1}} {
			if err := h.update(weights(w[0], w[1])); err != nil {
				t.Fatal(err)
			}
			got := map[string]int{}
			for range 20 {
				status, _, text := p.get(t, h.addr, "h", "/x")
				var s seen
				if err := json.Unmarshal([]byte(text), &s); err != nil || status != http.StatusOK {
					t.Fatalf("%d %s", status, text)
				}
				got[s.Engine]++
				<-h.records
			}
			if want := []int{20, 10, 0}[i]; got["a"] < want-1 || got["a"] > want+1 {
				t.Errorf("%s, weights %v: %v", p.name, w, got)
			}
		}
	}
}
