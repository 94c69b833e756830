package guard

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// A file of keys has a line "NAME:HASH" for each key: a name for logs and
// metrics, and the SHA-256 of the key in hexadecimal. A name may have several
// keys, so that one can follow another. Empty lines and those that begin with #
// say nothing.
//
// A slow hash as for passwords would be wrong here: our keys have 256 random
// bits, which nobody guesses, and each request would cost the time that slows
// down a guesser. For the same reason a look-up by the hash tells an attacker
// who measures it nothing: he would learn how the SHA-256 of what he sent
// begins, which he cannot choose but by trying.
const (
	maxKeyFile = 4 << 20
	maxName    = 64
	// keyPrefix marks our keys for people and for tools that look for leaked ones.
	keyPrefix = "sk-"
)

// NewKey makes a key of 256 random bits.
func NewKey() string { return keyPrefix + rand.Text() + rand.Text() }

// KeyLine is the line of a key in a file of keys, or why there can be none.
func KeyLine(name, key string) (string, error) {
	if !validName(name) {
		return "", fmt.Errorf("%q cannot be a key's name: use up to %d letters, digits and . _ @ -", name, maxName)
	}
	if err := checkKey(key); err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(key))
	return name + ":" + hex.EncodeToString(sum[:]), nil
}

// checkKey refuses what could not be sent, or guessed.
func checkKey(key string) error {
	if len(key) < 20 {
		return errors.New("the key is shorter than 20 characters: it could be guessed")
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] >= 0x7f {
			return errors.New("the key has characters that a header field cannot carry: use letters, digits and punctuation")
		}
	}
	return nil
}

func validName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && strings.IndexByte("._@-", c) < 0 {
			return false
		}
	}
	return true
}

// keySet finds the names of keys by their hashes.
type keySet map[[sha256.Size]byte]string

// KeyError is what is wrong with a line of a file of keys.
type KeyError struct {
	File    string
	Line    int // from 1; 0: the whole
	Message string
}

// Error is FILE:LINE: MESSAGE. It never has a hash in it.
func (e *KeyError) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Message)
}

// parseKeys reads a file of keys.
func parseKeys(file string, data []byte) (keySet, error) {
	keys, first := keySet{}, map[[sha256.Size]byte]int{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, err := parseKey(line)
		if err != nil {
			return nil, &KeyError{file, n, err.Error()}
		}
		if before, twice := first[hash]; twice {
			return nil, &KeyError{file, n, fmt.Sprintf("this key is in line %d already: take one of them out", before)}
		}
		keys[hash], first[hash] = name, n
	}
	if err := lines.Err(); err != nil {
		return nil, &KeyError{file, n + 1, "is no line of a file of keys: " + err.Error()}
	}
	if len(keys) == 0 {
		return nil, &KeyError{file, 0, "has no key, and so nobody could get in: add one with stoker key add NAME --file " + file}
	}
	return keys, nil
}

func parseKey(line string) (name string, hash [sha256.Size]byte, err error) {
	name, digits, found := strings.Cut(line, ":")
	switch {
	case strings.HasPrefix(line, keyPrefix):
		return "", hash, errors.New("this looks like a key itself: take it out, it is no secret any more; write NAME:HASH, as stoker key add prints it")
	case !found:
		return "", hash, errors.New("must be NAME:HASH, as stoker key add prints it")
	case !validName(name):
		return "", hash, fmt.Errorf("the name before the colon must be up to %d letters, digits and . _ @ -", maxName)
	case len(digits) != hex.EncodedLen(len(hash)):
		return "", hash, fmt.Errorf("the hash behind the colon must be a SHA-256 in %d hexadecimal digits, not %d characters", hex.EncodedLen(len(hash)), len(digits))
	}
	if _, err := hex.Decode(hash[:], []byte(digits)); err != nil {
		return "", hash, errors.New("the hash behind the colon has characters that are not hexadecimal digits")
	}
	return name, hash, nil
}

// Keyring is the keys of a file, as it was when it was last good. It is safe for
// use by many goroutines.
type Keyring struct {
	path string
	keys atomic.Pointer[keySet]

	mu sync.Mutex
	// read is the file that was read last, seen the one that was last looked at.
	read, seen version
}

// version tells one content of a file from another.
type version struct {
	inode    uint64
	size     int64
	modified time.Time
}

// ReadKeyring reads a file of keys. The error is a *KeyError where the file can
// be read and is wrong.
func ReadKeyring(path string) (*Keyring, error) {
	k := &Keyring{path: path}
	return k, k.Read()
}

// Path is the file's.
func (k *Keyring) Path() string { return k.path }

// Len is how many keys there are.
func (k *Keyring) Len() int { return len(*k.keys.Load()) }

// Read reads the file anew. An error leaves the keys as they were.
func (k *Keyring) Read() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.readLocked()
}

func (k *Keyring) readLocked() error {
	f, err := os.Open(k.path)
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	k.read = versionOf(info)
	k.seen = k.read
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	if len(data) > maxKeyFile {
		return &KeyError{k.path, 0, fmt.Sprintf("is larger than %d MiB: is this the file of keys?", maxKeyFile>>20)}
	}
	keys, err := parseKeys(k.path, data)
	if err != nil {
		return err
	}
	k.keys.Store(&keys)
	return nil
}

// Refresh reads the file if it has changed and stood still since the last call:
// an editor may be half-way through. It says whether it has; each content is
// read once, also one that is wrong.
func (k *Keyring) Refresh() (read bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var now version
	info, err := os.Stat(k.path)
	if err == nil {
		now = versionOf(info)
	}
	settled := now == k.seen
	k.seen = now
	if now == k.read || !settled {
		return false, nil
	}
	k.read = now
	if err != nil {
		return true, fmt.Errorf("read keys: %w", err)
	}
	return true, k.readLocked()
}

func versionOf(info os.FileInfo) version {
	v := version{size: info.Size(), modified: info.ModTime()}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		v.inode = s.Ino
	}
	return v
}

// name is whose key that is, empty if nobody's.
func (k *Keyring) name(key string) string {
	var room [128]byte // keys are short, and hashing asks for bytes
	return (*k.keys.Load())[sha256.Sum256(append(room[:0], key...))]
}

var (
	errNoKey = &Refusal{
		Status: http.StatusUnauthorized, Outcome: exchange.OutcomeUnauthorized, Kind: "invalid_request_error", Code: "invalid_api_key",
		Text: "no API key was given: send one in the Authorization field (Authorization: Bearer YOUR_KEY)",
	}
	errKey = &Refusal{
		Status: http.StatusUnauthorized, Outcome: exchange.OutcomeUnauthorized, Kind: "invalid_request_error", Code: "invalid_api_key",
		Text: "the API key is not valid here",
	}
)

// identify finds whose key a request has, and takes the key out of what is sent on.
// Where a request has several, Authorization counts before X-Api-Key, and that
// before Api-Key. One that is not ours may be meant for the upstream and stays.
func (g *Guard) identify(x *exchange.Exchange, p *Pass) error {
	given, best := false, 0
	kept := x.Request.Fields[:0]
	for _, f := range x.Request.Fields {
		rank, key := keyOf(f)
		if rank > 0 {
			given = true
			if name := g.keys.name(key); name != "" {
				if rank > best {
					best, p.who.key = rank, name
				}
				if !g.passKeys {
					continue
				}
			}
		}
		kept = append(kept, f)
	}
	clear(x.Request.Fields[len(kept):])
	x.Request.Fields = kept
	switch {
	case best > 0:
		x.Record.Key = p.who.key
		return nil
	case given:
		return errKey
	}
	return errNoKey
}

// keyOf is the key in a field, and how much that field counts; 0: none.
func keyOf(f http1.Field) (rank int, key string) {
	switch {
	case isName(f.Name, "Authorization"):
		scheme, key, found := strings.Cut(f.Value, " ")
		if !found || !isName(scheme, "Bearer") {
			return 0, ""
		}
		return 3, strings.Trim(key, " ")
	case isName(f.Name, "X-Api-Key"):
		return 2, f.Value
	case isName(f.Name, "Api-Key"):
		return 1, f.Value
	}
	return 0, ""
}

// isName compares field names; almost all differ in length.
func isName(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }
