//go:build e2e

package e2e

import (
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServersOverTLS: a server whose certificate is good serves; one that is not
// what its certificate says gets nothing, and the status says why.
func TestServersOverTLS(t *testing.T) {
	waits(t)
	f := &far{}
	s := httptest.NewTLSServer(f)
	defer s.Close()
	f.address = s.Listener.Addr().String()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	m := startNear(t, farPool+fmt.Sprintf("[[pools.servers]]\naddress = %q\ntls = true\ntls_ca = %q\ntls_server_name = \"example.com\"\n", f.address, ca))
	m.onlyBy(f)
	stop := m.load(4, "/work")
	if ended, _ := stop(); ended.except(string(complete)) != "" {
		t.Errorf("not every request was answered whole: %s", ended.except(string(complete)))
	}
	m.rewrite("example.com", "other.test")
	m.mustCommand("reload")
	m.eventually("it is found to be another", func() bool {
		_, body, err := m.admin("/status")
		return err == nil && m.serverState(f.address) == "unhealthy" && strings.Contains(m.logText(), "other.test") && body != ""
	})
	m.rewrite("tls_server_name = \"other.test\"", "tls_insecure_skip_verify = true", fmt.Sprintf("tls_ca = %q\n", ca), "")
	m.mustCommand("reload")
	m.onlyBy(f)
	m.eventually("a warning", func() bool { return strings.Contains(m.logText(), "certificate is not verified") })
	m.stop()
}
