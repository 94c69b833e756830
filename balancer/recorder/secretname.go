package recorder

import "strings"

// secretNameWords are the words that make a field's name that of a secret, by
// their length. Whole words: X-Max-Tokens and Tokenizer are none.
var secretNameWords = [16][]string{
	3:  {"key", "jwt", "pwd"},
	4:  {"auth", "keys"},
	5:  {"token"},
	6:  {"secret", "apikey", "cookie", "passwd"},
	7:  {"secrets", "apikeys"},
	8:  {"password"},
	10: {"passphrase", "credential"},
	11: {"credentials"},
	13: {"authorization"},
}

// initials are the first letters of words of one length, a bit each: nearly all names
// are told by them alone.
type initials uint32

func (i *initials) add(word string) {
	if word != "" {
		*i |= 1 << (word[0] & 31)
	}
}

// has says whether a word may be among them. Capitals and small letters are alike.
func (i initials) has(word string) bool { return i>>(word[0]&31)&1 != 0 }

var secretInitials = func() (all [len(secretNameWords)]initials) {
	for n, words := range secretNameWords {
		for _, word := range words {
			all[n].add(word)
		}
	}
	return all
}()

// openKeys are fields that are called keys and open nothing.
var openKeys = []string{"sec-websocket-key", "idempotency-key", "surrogate-key"}

// tellsOfSecret says whether a field is secret by the last word of its name, or
// by the first, whatever system has made it up. It is asked of each field of each
// request: the last word is looked for from behind, and compared with those of
// its own length and first letter.
func tellsOfSecret(name string) bool {
	at := len(name)
	for at > 0 && !isSeparator(name[at-1]) {
		at--
	}
	if isSecretWord(name[at:]) {
		return !isOpenKey(name)
	}
	if at < 5 { // "Key-" and longer; X- is most often the first, and tells nothing
		return false
	}
	end := 0
	for !isSeparator(name[end]) {
		end++
	}
	return isSecretWord(name[:end])
}

func isSeparator(c byte) bool { return c == '-' || c == '_' || c == '.' }

func isSecretWord(word string) bool {
	return len(word) >= 3 && len(word) < len(secretInitials) && secretInitials[len(word)].has(word) && isAmong(secretNameWords[len(word)], word)
}

func isAmong(words []string, word string) bool {
	for _, secret := range words {
		if strings.EqualFold(secret, word) {
			return true
		}
	}
	return false
}

func isOpenKey(name string) bool {
	for _, open := range openKeys {
		if strings.EqualFold(open, name) {
			return true
		}
	}
	return false
}
