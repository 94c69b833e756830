package http1

import "strings"

// Weight reads an element of a field such as Accept, "text/html;level=1;q=0.5":
// what it names, and its weight in thousandths (RFC 9110 12.4.2). Parameters
// other than q are passed over. A weight that is none means: not acceptable.
func Weight(element string) (name string, q int) {
	name, rest, _ := strings.Cut(element, ";")
	q = 1000
	for rest != "" {
		var parameter string
		parameter, rest, _ = strings.Cut(rest, ";")
		key, value, _ := strings.Cut(parameter, "=")
		if same(trim(key), "q") {
			q = weight(trim(value))
		}
	}
	return trim(name), q
}

// weight reads 0 to 1 with up to three decimals; anything else is 0.
func weight(s string) int {
	if s == "" || s[0] != '0' && s[0] != '1' || len(s) > 5 || len(s) > 1 && s[1] != '.' {
		return 0
	}
	q, worth := int(s[0]-'0')*1000, 100
	for i := 2; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0
		}
		q += int(s[i]-'0') * worth
		worth /= 10
	}
	if q > 1000 {
		return 0
	}
	return q
}
