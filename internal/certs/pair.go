package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// Part says which of the things that make up a certificate is at fault.
type Part int

// The parts.
const (
	PartCert Part = iota
	PartKey
	PartHosts
)

// Error is why a certificate cannot be used, in words that say what would be right.
type Error struct {
	Part    Part
	Message string
}

func (e *Error) Error() string { return e.Message }

// Files name one certificate.
type Files struct {
	// Cert is a file of PEM: the certificate, then those that lead to its authority.
	Cert string
	// Key is a file of PEM: the certificate's private key.
	Key string
	// Hosts are the names that it is shown for; empty: all that it carries.
	Hosts []string
}

// Pair is a certificate with its key.
type Pair struct {
	Files
	tls.Certificate
	// Hosts that it is shown for, in lower case: "a.test" or "*.a.test".
	Hosts []string
}

// maxFile is far above any chain; past it somebody has named the wrong file.
const maxFile = 1 << 20

// Load reads a certificate. Its errors are *Error.
func Load(f Files) (*Pair, error) {
	cert, err := read(f.Cert)
	if err != nil {
		return nil, &Error{PartCert, err.Error()}
	}
	key, err := read(f.Key)
	if err != nil {
		return nil, &Error{PartKey, err.Error()}
	}
	p := &Pair{Files: f}
	if p.Certificate, err = tls.X509KeyPair(cert, key); err != nil {
		return nil, explain(f, cert, key, err)
	}
	if p.Hosts, err = hostsOf(p.Leaf, f.Hosts); err != nil {
		return nil, &Error{PartHosts, err.Error()}
	}
	return p, nil
}

// read reads a small file; its errors name the file once.
func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxFile {
		return nil, fmt.Errorf("%s is larger than %d KiB: is this the file?", path, maxFile>>10)
	}
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	var pathErr *fs.PathError
	switch {
	case err == nil:
		return data, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s does not exist", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s cannot be read: permission denied for user %d", path, os.Getuid())
	case errors.As(err, &pathErr):
		err = pathErr.Err
	}
	return nil, fmt.Errorf("%s cannot be read: %w", path, err)
}

// explain finds out which of the two files is at fault.
func explain(f Files, cert, key []byte, err error) *Error {
	switch text := string(key); {
	case !strings.Contains(string(cert), "-----BEGIN CERTIFICATE-----"):
		if strings.Contains(string(cert), "PRIVATE KEY-----") {
			return &Error{PartCert, f.Cert + " holds a private key and no certificate: are cert and key swapped?"}
		}
		return &Error{PartCert, f.Cert + " holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"}
	case strings.Contains(text, "ENCRYPTED"):
		return &Error{PartKey, f.Key + " is protected by a passphrase, which nobody could enter at a restart: write it without (openssl pkey -in … -out …), readable by the service's user alone"}
	case !strings.Contains(text, "PRIVATE KEY-----"):
		return &Error{PartKey, f.Key + " holds no private key in PEM (-----BEGIN PRIVATE KEY-----)"}
	case strings.Contains(err.Error(), "does not match"):
		return &Error{PartKey, fmt.Sprintf("the private key in %s is not that of the certificate in %s: name the two that were made together", f.Key, f.Cert)}
	case strings.Contains(err.Error(), "private key"):
		return &Error{PartKey, fmt.Sprintf("%s cannot be used: %s", f.Key, strings.TrimPrefix(err.Error(), "tls: "))}
	}
	return &Error{PartCert, fmt.Sprintf("%s cannot be used: %s", f.Cert, strings.TrimPrefix(err.Error(), "tls: "))}
}

// hostsOf is what a certificate is shown for: only, or all that it carries.
func hostsOf(leaf *x509.Certificate, only []string) ([]string, error) {
	var carried []string
	for _, name := range leaf.DNSNames {
		carried = append(carried, plain(name))
	}
	if len(only) == 0 {
		slices.Sort(carried)
		return slices.Compact(carried), nil
	}
	hosts := make([]string, len(only))
	for i, host := range only {
		hosts[i] = plain(host)
		if !slices.Contains(carried, hosts[i]) && (strings.HasPrefix(host, "*") || leaf.VerifyHostname(hosts[i]) != nil) {
			return nil, fmt.Errorf("the certificate does not carry %q: it carries %s", host, list(carried))
		}
	}
	return hosts, nil
}

// plain is a host's name as it is compared: in lower case, without the root's dot.
func plain(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") }

func list(names []string) string {
	const few = 6
	switch {
	case len(names) == 0:
		return "no name at all"
	case len(names) > few:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}

// soon is how long before its end a certificate is worth a word.
const soon = 7 * 24 * time.Hour

// Doubt says why clients will not, or soon will not, believe the certificate;
// empty: nothing is known. It is used all the same.
func (p *Pair) Doubt(now time.Time) string {
	const layout = "2006-01-02 15:04 MST"
	switch end := p.Leaf.NotAfter; {
	case now.After(end):
		return fmt.Sprintf("expired on %s: clients will refuse it; renew it", end.UTC().Format(layout))
	case now.Before(p.Leaf.NotBefore):
		return fmt.Sprintf("is not valid before %s: clients will refuse it until then; is the clock right?", p.Leaf.NotBefore.UTC().Format(layout))
	case now.Add(soon).After(end):
		return fmt.Sprintf("expires on %s: renew it", end.UTC().Format(layout))
	case len(p.Hosts) == 0 && len(p.Leaf.IPAddresses) == 0:
		return "carries no name (subjectAltName): clients will refuse it; make it anew with one"
	}
	return ""
}

// Name is what a person calls it: its first name, or else its file.
func (p *Pair) Name() string {
	if len(p.Hosts) > 0 {
		return p.Hosts[0]
	}
	return p.Cert
}

// Twin finds a host that both are shown for, with keys of one kind: which of the
// two a client gets would be chance. Two kinds are for two kinds of clients.
func (p *Pair) Twin(other *Pair) (host string) {
	if p.Leaf.PublicKeyAlgorithm != other.Leaf.PublicKeyAlgorithm {
		return ""
	}
	for _, h := range p.Hosts {
		if slices.Contains(other.Hosts, h) {
			return h
		}
	}
	return ""
}

// LoadAuthorities reads the certificates of those who may vouch for clients.
func LoadAuthorities(path string) (*x509.CertPool, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no certificate in PEM (-----BEGIN CERTIFICATE-----)", path)
	}
	return pool, nil
}
