package config

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// decode writes the tree of a file over the configuration. The library could
// do it, but stops at the first wrong type; here every one is found.
func (v *validator) decode(tree map[string]any) {
	v.decodeTable("", tree, reflect.ValueOf(v.config).Elem())
}

func (v *validator) decodeTable(path string, tree map[string]any, dst reflect.Value) {
	fields := keysOf(dst.Type())
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		at := joinPath(path, key)
		i, known := fields.index[key]
		if !known {
			v.unknownKey(path, key, fields)
			continue
		}
		v.decodeValue(at, tree[key], dst.Field(i))
	}
}

// decodeValue writes one value, or says what its type should be and leaves
// what was there.
func (v *validator) decodeValue(path string, value any, dst reflect.Value) {
	switch to := dst.Addr().Interface().(type) {
	case *Duration:
		v.decodeDuration(path, value, to)
		return
	case *netip.Prefix:
		v.decodePrefix(path, value, to)
		return
	}
	switch dst.Kind() { //nolint:exhaustive // the struct has no others
	case reflect.Struct:
		v.decodeStruct(path, value, dst)
	case reflect.Slice:
		v.decodeSlice(path, value, dst)
	case reflect.Map:
		v.decodeStrings(path, value, dst)
	case reflect.String:
		v.decodeString(path, value, dst)
	case reflect.Bool:
		b, ok := value.(bool)
		if !ok {
			v.wrongType(path, "true or false, without quotes", value)
			return
		}
		dst.SetBool(b)
	case reflect.Float64:
		switch n := value.(type) {
		case int64:
			dst.SetFloat(float64(n))
		case float64:
			dst.SetFloat(n)
		default:
			v.wrongType(path, "a number, without quotes", value)
		}
	case reflect.Int:
		n, ok := value.(int64)
		if !ok {
			v.wrongType(path, wholeNumberWanted(value), value)
			return
		}
		dst.SetInt(n)
	default:
		panic(fmt.Sprintf("config: %s has a type that no file can hold: %s", path, dst.Type()))
	}
}

func (v *validator) decodeStruct(path string, value any, dst reflect.Value) {
	table, ok := value.(map[string]any)
	if !ok {
		v.wrongType(path, "a table: write "+header(genericPath(path))+" above its keys", value)
		return
	}
	v.decodeTable(path, table, dst)
}

// decodeSlice starts each element from its own defaults: the library would
// start from zero values, and a second pool would have no time-outs.
func (v *validator) decodeSlice(path string, value any, dst reflect.Value) {
	elements, ok := asSlice(value)
	if !ok {
		v.wrongType(path, arrayWanted(path, value, dst.Type().Elem()), value)
		return
	}
	if len(elements) == 0 {
		dst.SetZero()
		return
	}
	fresh := reflect.MakeSlice(dst.Type(), len(elements), len(elements))
	for i, element := range elements {
		fresh.Index(i).Set(defaultElement(dst.Type().Elem()))
		v.decodeValue(indexPath(path, i), element, fresh.Index(i))
	}
	dst.Set(fresh)
}

// asSlice sees both forms of an array: written in brackets, or as [[tables]].
func asSlice(value any) ([]any, bool) {
	switch array := value.(type) {
	case []any:
		return array, true
	case []map[string]any:
		elements := make([]any, len(array))
		for i := range array {
			elements[i] = array[i]
		}
		return elements, true
	}
	return nil, false
}

func arrayWanted(path string, value any, element reflect.Type) string {
	if element.Kind() == reflect.Struct && element != reflect.TypeFor[netip.Prefix]() {
		return "an array of tables: write [[" + genericPath(path) + "]], with two brackets, above each one's keys"
	}
	wanted := "an array of strings"
	text, ok := value.(string)
	if !ok {
		return wanted
	}
	words := []string{text}
	if strings.HasSuffix(path, "command") && !strings.ContainsAny(text, `"'\`) {
		words = strings.Fields(text)
	}
	return wanted + ": write " + quoteArray(words)
}

// defaultElement is what an array's element is decoded over.
func defaultElement(t reflect.Type) reflect.Value {
	switch t {
	case reflect.TypeFor[Pool]():
		return reflect.ValueOf(DefaultPool(""))
	case reflect.TypeFor[Limit]():
		return reflect.ValueOf(DefaultLimit())
	case reflect.TypeFor[Server]():
		return reflect.ValueOf(DefaultServer(""))
	case reflect.TypeFor[Share]():
		return reflect.ValueOf(DefaultShare())
	}
	return reflect.Zero(t)
}

func (v *validator) decodeStrings(path string, value any, dst reflect.Value) {
	table, ok := value.(map[string]any)
	if !ok {
		v.wrongType(path, "a table of strings: write ["+genericPath(path)+"] above its keys", value)
		return
	}
	if len(table) == 0 {
		dst.SetZero()
		return
	}
	strs := reflect.MakeMapWithSize(dst.Type(), len(table))
	for _, key := range slices.Sorted(maps.Keys(table)) {
		element := reflect.New(dst.Type().Elem()).Elem()
		v.decodeString(joinPath(path, key), table[key], element)
		strs.SetMapIndex(reflect.ValueOf(key), element)
	}
	dst.Set(strs)
}

func (v *validator) decodeString(path string, value any, dst reflect.Value) {
	s, ok := value.(string)
	switch {
	case !ok:
		wanted := "a string"
		if text := scalarText(value); text != "" {
			wanted += ": write " + quoteTOML(text)
		}
		v.wrongType(path, wanted, value)
	case strings.Contains(s, "\x00"):
		v.report(path, "must not contain a NUL character (\\u0000): no path, argument or variable can hold one")
	default:
		dst.SetString(s)
	}
}

func (v *validator) decodeDuration(path string, value any, dst *Duration) {
	s, ok := value.(string)
	if !ok {
		wanted := `a duration in quotes, such as "30s"`
		if text := scalarText(value); text != "" && text != "true" && text != "false" {
			wanted = "a duration in quotes, with its unit: write " + quoteTOML(text+"s")
		}
		v.wrongType(path, wanted, value)
		return
	}
	if err := dst.UnmarshalText([]byte(s)); err != nil {
		v.report(path, err.Error())
		v.unread[path] = true
	}
}

func (v *validator) decodePrefix(path string, value any, dst *netip.Prefix) {
	s, ok := value.(string)
	if !ok {
		v.wrongType(path, `a network in quotes, such as "10.0.0.0/8"`, value)
		return
	}
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		*dst = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())
		return
	}
	prefix, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		v.report(path, fmt.Sprintf(`%q is not a network: write an address with its length, such as "10.0.0.0/8" or "fd00::/8", or one address`, s))
	case prefix.Addr().Is4In6():
		v.report(path, fmt.Sprintf("%q is IPv4 in IPv6's clothes: write it as an IPv4 network", s))
	case prefix != prefix.Masked():
		v.report(path, fmt.Sprintf("%q has bits beyond its length: did you mean %q?", s, prefix.Masked()))
	default:
		*dst = prefix
	}
}

// wrongType reports that a value is not what it must be.
func (v *validator) wrongType(path, wanted string, got any) {
	wanted, hint, found := strings.Cut(wanted, ": write ")
	message := fmt.Sprintf("must be %s, not %s", wanted, describe(got))
	if found {
		message += ": write " + hint
	}
	v.report(path, message)
	v.unread[path] = true
}

// wholeNumberWanted says what a whole number is, and which one was meant.
func wholeNumberWanted(value any) string {
	const wanted = "a whole number"
	switch x := value.(type) {
	case string:
		if n, err := strconv.Atoi(strings.TrimSpace(x)); err == nil {
			return fmt.Sprintf("%s, without quotes: write %d", wanted, n)
		}
	case float64:
		if x == math.Trunc(x) && math.Abs(x) < 1<<53 {
			return fmt.Sprintf("%s: write %.0f", wanted, x)
		}
	}
	return wanted
}

// describe names a value as its writer would.
func describe(value any) string {
	switch x := value.(type) {
	case string:
		return "the string " + quoteTOML(shorten(x))
	case int64:
		return "the number " + strconv.FormatInt(x, 10)
	case float64:
		return "the number " + scalarText(x)
	case bool:
		return strconv.FormatBool(x)
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	default:
		return "an array"
	}
}

// shorten keeps a message on one readable line.
func shorten(s string) string {
	const limit = 60
	if runes := []rune(s); len(runes) > limit {
		return string(runes[:limit]) + "…"
	}
	return s
}

// scalarText is a number or boolean as text; empty for anything else.
func scalarText(value any) string {
	switch x := value.(type) {
	case int64:
		return strconv.FormatInt(x, 10)
	case float64:
		text := strconv.FormatFloat(x, 'g', -1, 64)
		if x == math.Trunc(x) && !strings.ContainsAny(text, "eIN") {
			text += ".0"
		}
		return text
	case bool:
		return strconv.FormatBool(x)
	}
	return ""
}
