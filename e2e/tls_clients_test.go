//go:build e2e

package e2e

import (
	"os"
	"strings"
	"testing"
)

// TestClientsThroughTLS: the official clients, and Node's WebSockets, verify the
// certificate, and get through TLS what they get from the engine directly.
func TestClientsThroughTLS(t *testing.T) {
	waits(t)
	s := newSecure(t)
	ca, err := os.ReadFile(s.cert)
	if err != nil {
		t.Fatal(err)
	}
	trust := []string{"NODE_EXTRA_CA_CERTS=" + s.cert, "CHAT_CA=" + string(ca)}
	app := fastapi(t, 1)
	app = app[strings.Index(app, "[[pools]]"):] // without the keys of the whole program
	m := start(t, s.config+"[[pools]]\nname = \"llama\"\nhealth.path = \"/health\"\ncommand = "+
		list(append(llama(t), "--host", "127.0.0.1", "--port", "{port}", "-c", "2048", "-np", "2", "--threads", "1")...)+
		"\n"+app+"\n[[routes]]\npath = \"/ws\"\npool = \"app\"\n[[routes]]\npool = \"llama\"\n").allReady()
	port := s.address[strings.LastIndexByte(s.address, ':'):]
	for _, c := range chatClients {
		t.Run(c.name, func(t *testing.T) {
			direct := chat(t, c.client, "http://"+m.worker("llama-0").Address+"/v1")
			if through := chat(t, c.client, "https://localhost"+port+"/v1", trust...); through != direct || strings.Count(direct, "\n") < 10 {
				t.Errorf("through TLS:\n%s\ndirectly:\n%s", through, direct)
			}
		})
	}
	for _, kind := range []string{"ws", "builtin"} {
		w := m.webSocketAt(kind, "wss://localhost"+port+"/ws/echo", trust...).opened()
		w.echoes("over TLS")
		w.send("binary 70000")
		if e := w.next(); e.Bytes != 70000 {
			t.Errorf("%s: %+v", kind, e)
		}
		w.send("bye")
		w.closes(1000)
	}
	m.stop()
}
