package http1

// framing collects what a head says of its body and its connection, for
// answers and requests alike (RFC 9112 6).
type framing struct {
	length    int64  // -1: none declared
	digits    string // of length
	chunked   bool
	close     bool
	keepAlive bool
	upgrade   bool // asks for what an Upgrade field names
}

// frame reads the framing out of a head's fields.
func frame(fields Fields) (framing, error) {
	f := framing{length: -1}
	for i := range fields {
		if err := f.note(fields[i]); err != nil {
			return f, err
		}
	}
	if f.chunked && f.length >= 0 {
		return f, errLengthCoding
	}
	return f, nil
}

func (f *framing) note(field Field) error {
	switch len(field.Name) {
	case len("Connection"):
		if same(field.Name, "Connection") {
			f.noteConnection(field.Value)
		}
	case len("Content-Length"):
		if same(field.Name, "Content-Length") {
			return f.noteLength(field.Value)
		}
	case len("Transfer-Encoding"):
		if same(field.Name, "Transfer-Encoding") {
			return f.noteCoding(field.Value)
		}
	}
	return nil
}

func (f *framing) noteConnection(value string) {
	for token := range tokens(value) {
		f.close = f.close || same(token, "close")
		f.keepAlive = f.keepAlive || same(token, "keep-alive")
		f.upgrade = f.upgrade || same(token, "upgrade")
	}
}

// noteLength takes repeated lines that agree to the letter, as RFC 9112 6.3
// permits and net/http does, but no list within one line.
func (f *framing) noteLength(value string) error {
	const maxDigits = 18 // of any int64
	if value == "" || len(value) > maxDigits {
		return errLength
	}
	var n int64
	for i := range len(value) {
		c := value[i]
		if c < '0' || c > '9' {
			return errLength
		}
		n = n*10 + int64(c-'0')
	}
	if f.length >= 0 && f.digits != value {
		return errLengths
	}
	f.length, f.digits = n, value
	return nil
}

// noteCoding takes chunked, once. Any other coding would have to be undone or
// passed on with a framing that is ours: refused, as smuggling lives there.
func (f *framing) noteCoding(value string) error {
	if f.chunked || !same(value, "chunked") {
		return errCoding
	}
	f.chunked = true
	return nil
}
