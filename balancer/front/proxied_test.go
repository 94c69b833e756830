package front

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// who answers with whom the request is said to come from.
func who(_ context.Context, x *exchange.Exchange) {
	text := []byte(x.Client.String())
	_ = x.Sink.Head(&http1.Response{Status: 200}, int64(len(text)))
	_, _ = x.Sink.Write(text)
	_ = x.Sink.End(nil)
}

var loopback = &Proxies{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Only: true}

// listenAs serves in that manner on a further listener, and returns where it is.
func (fx *fixture) listenAs(t *testing.T, l net.Listener, m Manner) string {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- fx.ServeAs(l, func() Manner { return m }) }()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	return listenOn(t, "tcp", "127.0.0.1:0")
}

// binaryHeader is version 2's, of TCP over IPv4.
func binaryHeader(command byte, from string, extensions ...byte) string {
	client := netip.MustParseAddrPort(from)
	h := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x20|command, 0x11)
	h = binary.BigEndian.AppendUint16(h, uint16(12+len(extensions)))
	ip := client.Addr().As4()
	h = append(append(h, ip[:]...), 127, 0, 0, 1)
	h = binary.BigEndian.AppendUint16(h, client.Port())
	h = binary.BigEndian.AppendUint16(h, 443)
	return string(append(h, extensions...))
}

func TestProxiesNameTheirClients(t *testing.T) {
	fx := start(t, who)
	plain, secure := fx.listenAs(t, listenTCP(t), Manner{Proxies: loopback}), fx.listenAs(t, listenTCP(t), Manner{TLS: certified(), Proxies: loopback})
	for header, want := range map[string]string{
		"PROXY TCP4 203.0.113.7 127.0.0.1 54321 443\r\n":                        "203.0.113.7:54321",
		"PROXY TCP6 2001:db8::7 ::1 54321 443\r\n":                              "[2001:db8::7]:54321",
		"PROXY UNKNOWN\r\n":                                                     "127.0.0.1",
		binaryHeader(1, "203.0.113.8:1"):                                        "203.0.113.8:1",
		binaryHeader(1, "203.0.113.9:2", 0x20, 0, 5, 1, 0, 0, 0, 0, 0xea, 0, 0): "203.0.113.9:2",
		binaryHeader(0, "203.0.113.7:54321"):                                    "127.0.0.1",
	} {
		for _, version := range []string{"http://1", "http://2", "https://1", "https://2"} {
			t.Run(fmt.Sprintf("%s %.20q", version, header), func(t *testing.T) {
				scheme, number, _ := strings.Cut(version, "://")
				p := new(http.Protocols)
				p.SetHTTP1(number == "1")
				p.SetHTTP2(number == "2" && scheme == "https")
				p.SetUnencryptedHTTP2(number == "2" && scheme == "http")
				tr := &http.Transport{
					Protocols: p, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
					DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
						c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
						if err == nil {
							_, err = io.WriteString(c, header)
						}
						return c, err
					},
				}
				defer tr.CloseIdleConnections()
				client := &http.Client{Transport: tr, Timeout: patience}
				for range 2 { // the second one over the same connection
					r, err := client.Get(scheme + "://" + map[string]string{"http": plain, "https": secure}[scheme])
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(r.Body)
					r.Body.Close()
					if err != nil || !strings.HasPrefix(string(body), want) {
						t.Errorf("comes from %s (%v), want %s", body, err, want)
					}
				}
			})
		}
	}
}

// What comes with the header, or a byte at a time, is not lost.
func TestProxyHeaderHoweverItComes(t *testing.T) {
	fx := start(t, who)
	fx.addr = fx.listenAs(t, listenTCP(t), Manner{Proxies: loopback})
	const request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, header := range []string{"PROXY TCP4 203.0.113.7 127.0.0.1 54321 443\r\n", binaryHeader(1, "203.0.113.7:54321", append([]byte{4, 14, 0}, make([]byte, 14<<8)...)...)} {
		for _, size := range []int{1, 2, 7, len(header) - 1, len(header), len(header) + 1, len(header) + len(request)} {
			c := fx.dial(t)
			for rest := header + request; rest != ""; {
				n := min(len(rest), max(size, len(rest)/50)) // the long one in fifty pieces at most
				if _, err := io.WriteString(c, rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if r, body := c.answer(t, "GET"); r.StatusCode != http.StatusOK || body != "203.0.113.7:54321" {
				t.Errorf("in pieces of %d: %d %s", size, r.StatusCode, body)
			}
		}
	}
}

func TestProxiesThatSayNothingGood(t *testing.T) {
	fx := start(t, who)
	const late = "did not arrive in time"
	impatient := DefaultLimits()
	impatient.Head = 20 * time.Millisecond
	for name, m := range map[string]Manner{"plain": {Proxies: loopback}, "TLS": {TLS: certified(), Proxies: loopback}} {
		fx.addr = fx.listenAs(t, listenTCP(t), m)
		for _, tc := range []struct{ sent, says string }{
			{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "no PROXY header"},
			{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "no PROXY header"},
			{"\x16\x03\x01\x02\x00\x01\x00", "no PROXY header"},
			{"\r\nPROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n", "no PROXY header"},
			{"PROXY TCP4 203.0.113.7 127.0.0.1 1\r\nGET / HTTP/1.1\r\n\r\n", "malformed PROXY line"},
			{"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\nGET / HTTP/1.1\r\n\r\n", "malformed PROXY line"},
			{"PROXY TCP4 " + strings.Repeat("1", 5000), "too long"},
			{"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", "too long"},
			{"\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x00", "unknown version"},
			{binaryHeader(2, "203.0.113.7:1"), "unknown command"},
			{binaryHeader(1, "203.0.113.7:1", 3, 0, 4, 1, 2, 3, 4), "wrong checksum"},
			{binaryHeader(1, "203.0.113.7:1", 1, 0), "malformed extension"},
			{"PROXY TCP4 203.0.113.7", late},
			{binaryHeader(1, "203.0.113.7:1")[:20], late},
			{"", late},
		} {
			fx.SetLimits(DefaultLimits())
			if tc.says == late {
				fx.SetLimits(impatient)
			}
			c := fx.dial(t)
			if _, err := io.WriteString(c, tc.sent); err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			if got, err := io.ReadAll(c); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s, %.30q: answered %q, %v", name, tc.sent, got, err)
			}
			rec := wait(t, fx.records, "record")
			if rec.Refused != "proxy_header" || rec.Err == nil || !strings.Contains(rec.Err.Error(), tc.says) || rec.ClientIP != "127.0.0.1" {
				t.Errorf("%s, %.30q: %+v", name, tc.sent, rec)
			}
		}
		fx.SetLimits(DefaultLimits())
		for _, partial := range []string{"PROXY TCP4 203.0.113.7", binaryHeader(1, "203.0.113.7:1")[:27]} {
			c := fx.dial(t)
			_, _ = io.WriteString(c, partial)
			_ = c.Close()
			if rec := wait(t, fx.records, "record"); rec.Refused != "proxy_header" || !strings.Contains(rec.Err.Error(), "ended within") {
				t.Errorf("%s: a header that ends: %+v", name, rec)
			}
		}
	}
	_ = fx.dial(t).Close() // is anybody there? Nothing is said of that
	waitUntil(t, func() bool { return fx.Connections() == 0 })
	if len(fx.records) > 0 {
		t.Errorf("a look whether somebody listens: %+v", <-fx.records)
	}
}

func waitUntil(t *testing.T, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("it does not come about")
		}
	}
}

// Who is no proxy cannot name anybody.
func TestStrangersNameNobody(t *testing.T) {
	fx := start(t, who)
	elsewhere := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	only, others := fx.listenAs(t, listenTCP(t), Manner{Proxies: &Proxies{From: elsewhere, Only: true}}), fx.listenAs(t, listenTCP(t), Manner{Proxies: &Proxies{From: elsewhere}})
	fx.addr = only
	c := fx.dial(t)
	if r, _ := c.answer(t, "GET"); r.StatusCode != http.StatusForbidden {
		t.Errorf("a stranger at a port for proxies: %d", r.StatusCode)
	}
	if rec := wait(t, fx.records, "record"); rec.Refused != "not_a_proxy" {
		t.Errorf("%+v", rec)
	}
	fx.addr = others
	c = fx.dial(t)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if r, body := c.answer(t, "GET"); r.StatusCode != http.StatusOK || !strings.HasPrefix(body, "127.0.0.1:") {
		t.Errorf("a client beside proxies: %d %s", r.StatusCode, body)
	}
	for _, header := range []string{"PROXY TCP4 203.0.113.7 127.0.0.1 54321 443\r\n", binaryHeader(1, "203.0.113.7:1")} {
		c = fx.dial(t)
		_, _ = io.WriteString(c, header+"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if r, _ := c.answer(t, "GET"); r.StatusCode != http.StatusBadRequest {
			t.Errorf("a client that names somebody: %d", r.StatusCode)
		}
	}
	// Over a unix socket comes who may open it.
	l := listenOn(t, "unix", filepath.Join(t.TempDir(), "s"))
	fx.listenAs(t, l, Manner{Proxies: &Proxies{Only: true}})
	nc, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, _ = io.WriteString(nc, "PROXY TCP4 203.0.113.7 127.0.0.1 54321 443\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, body := newClient(nc).answer(t, "GET"); body != "203.0.113.7:54321" {
		t.Errorf("over a unix socket: %s", body)
	}
}

// Connections are counted by whom the header names, not by the proxy.
func TestClientsOfProxiesAreCounted(t *testing.T) {
	fx := startAs(t, who, func(f *Front) {
		l := DefaultLimits()
		l.ConnsPerAddress = 1
		f.SetLimits(l)
	})
	fx.addr = fx.listenAs(t, listenTCP(t), Manner{Proxies: loopback})
	ask := func(client string) (*client, int) {
		c := fx.dial(t)
		_, _ = fmt.Fprintf(c, "PROXY TCP4 %s 127.0.0.1 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", client)
		r, _ := c.answer(t, "GET")
		return c, r.StatusCode
	}
	var held []*client
	for i := range 5 {
		c, status := ask(fmt.Sprintf("203.0.113.%d", i))
		if status != 200 {
			t.Errorf("client %d: %d", i, status)
		}
		held = append(held, c)
	}
	if _, status := ask("203.0.113.3"); status != http.StatusTooManyRequests {
		t.Errorf("a second connection: %d", status)
	}
	for _, c := range held {
		_ = c.Close()
	}
	waitUntil(t, func() bool { return fx.Connections() == 0 })
	if _, status := ask("203.0.113.3"); status != 200 {
		t.Errorf("once the first has gone: %d", status)
	}
	fx.mu.Lock()
	defer fx.mu.Unlock()
	if fx.refused > 0 || len(fx.peers) > 1 {
		t.Errorf("counted wrongly: %d, %v", fx.refused, fx.peers)
	}
}
