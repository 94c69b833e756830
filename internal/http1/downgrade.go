package http1

import "net/http"

// Downgrade is what a request of HTTP/2 says twice, and net/http has made one of.
type Downgrade struct {
	Method, Target string
	// Authority is the one that the request is for, Hosts the Host fields besides.
	Authority string
	Hosts     []string
	// Lengths are the Content-Length fields, Length what they were taken for: 0 where
	// no body follows, -1 where there are none.
	Lengths []string
	Length  int64
	// Fields is how many there are.
	Fields int
}

// Check refuses what ParseRequest would have refused: it is for a request that
// goes on in HTTP/1.1, and RFC 9113 8.2 and 8.3 call nearly all of it malformed
// too. Who reads the same request before or behind us may have gone by the other
// of two hosts, or of two lengths. A missing authority is for others to see.
func (d *Downgrade) Check() error {
	switch {
	case len(d.Method) == 0 || !all([]byte(d.Method), isToken):
		return errMethodToken
	case d.Method != http.MethodConnect && d.Target != "*" && (d.Target == "" || d.Target[0] != '/'):
		return errTargetForm
	case d.Authority != "" && !isAuthority(d.Authority):
		return errHost
	case len(d.Hosts) > 1:
		return errHosts
	case len(d.Hosts) == 1 && !same(d.Hosts[0], d.Authority):
		return errHostDiffers
	case len(d.Lengths) > 1:
		return errLengthTwice
	case d.Fields > MaxRequestFields:
		return ErrTooManyFields
	case len(d.Lengths) == 0:
		return nil
	}
	f := framing{length: -1}
	if err := f.noteLength(d.Lengths[0]); err != nil {
		return err
	}
	if f.length != d.Length {
		return errLengthDiffers
	}
	return nil
}
