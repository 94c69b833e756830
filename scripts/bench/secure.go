package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"stoker/scripts/bench/loop"
)

// pair is the certificate that every subject shows, a P-256 one; empty: plain.
type pair struct {
	cert, key string
	both      string // one file of both, as HAProxy wants it
}

// makePair makes it, for 127.0.0.1.
func makePair(dir string) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, fmt.Errorf("make key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return pair{}, fmt.Errorf("make certificate: %w", err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return pair{}, fmt.Errorf("make key: %w", err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	p := pair{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "both.pem")}
	return p, errors.Join(os.WriteFile(p.cert, cert, 0o600), os.WriteFile(p.key, secret, 0o600), os.WriteFile(p.both, append(cert, secret...), 0o600))
}

// tool is a load by somebody else's program, since the loop speaks neither TLS
// nor HTTP/2. It runs on the loop's core, whose engines answer meanwhile.
type tool struct {
	program string
	// args of a run of so many seconds on a URL, with a file of 1 KiB to send.
	args func(url, body string, seconds string) []string
	// read makes of its output how many requests were answered well; an error if
	// any was not.
	read func(output string) (int, error)
}

// handshakes brings a connection, and so a whole handshake, for each request.
var handshakes = &tool{"wrk", func(url, _, seconds string) []string {
	return []string{"-t1", "-c16", "-d" + seconds + "s", "-H", "Connection: close", "--latency", url}
}, readWrk}

func overHTTP1() *tool {
	return &tool{"h2load", func(url, body, seconds string) []string {
		return []string{"--h1", "-c64", "-D" + seconds, "-d" + body, url}
	}, readH2load}
}

func overHTTP2() *tool {
	return &tool{"h2load", func(url, body, seconds string) []string {
		return []string{"-c16", "-m4", "-D" + seconds, "-d" + body, url}
	}, readH2load}
}

var (
	wrkRequests = regexp.MustCompile(`(\d+) requests in`)
	wrkFailed   = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)|Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	h2Requests  = regexp.MustCompile(`(\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored`)
	h2Codes     = regexp.MustCompile(`status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx`)
	h2Bytes     = regexp.MustCompile(`\((\d+)\) data`)
)

func readWrk(output string) (int, error) {
	found := wrkRequests.FindStringSubmatch(output)
	if failed := wrkFailed.FindString(output); failed != "" || found == nil {
		return 0, fmt.Errorf("wrk: %s", firstOf(failed, output))
	}
	return number(found[1]), nil
}

// readH2load also counts bytes: each answer has as many.
func readH2load(output string) (int, error) {
	requests, codes, data := h2Requests.FindStringSubmatch(output), h2Codes.FindStringSubmatch(output), h2Bytes.FindStringSubmatch(output)
	if requests == nil || codes == nil || data == nil {
		return 0, fmt.Errorf("h2load: %s", output)
	}
	good := number(requests[3])
	// A run that ends by the clock leaves some in flight, of which some bytes have come.
	if most := 1024 * (good + 64); requests[4] != "0" || requests[5] != "0" || number(codes[1]) < good || codes[3] != "0" || codes[4] != "0" || number(data[1]) < 1024*good || number(data[1]) > most {
		return 0, fmt.Errorf("h2load: %s", output)
	}
	return good, nil
}

func number(s string) int {
	n, _ := strconv.Atoi(s) // what the pattern has matched is a number
	return n
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// measureBy puts a tool's load on p.
func (w *work) measureBy(ctx context.Context, dir, address string, p *pinned) (one sample, err error) {
	scheme := "http"
	if w.secure {
		scheme = "https"
	}
	body := filepath.Join(dir, "body")
	if err := os.WriteFile(body, loop.SmallBody(), 0o600); err != nil {
		return one, fmt.Errorf("write body: %w", err)
	}
	run := func(d time.Duration) (int, error) {
		seconds := strconv.Itoa(max(1, int(d.Seconds())))
		args := append([]string{"-c", loadCore, w.tool.program}, w.tool.args(scheme+"://"+address+"/small", body, seconds)...)
		out, err := exec.CommandContext(ctx, "taskset", args...).CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
		return w.tool.read(string(out))
	}
	if _, err := run(time.Second); err != nil { // warm
		return one, err
	}
	before, began := p.cpu(), time.Now()
	n, err := run(w.order.Duration)
	if err != nil {
		return one, err
	}
	one.CPU = (p.cpu() - before) / time.Duration(max(n, 1))
	one.Rate = float64(n) / time.Since(began).Seconds()
	one.Resident = p.resident()
	return one, nil
}

// insecure asks a subject whose certificate nobody vouches for.
func insecure() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // G402: the certificate was made a moment ago, by us
	}}
}
