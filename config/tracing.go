package config

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Whose word on the trace of a request is believed.
const (
	ParentsAll     = "all"
	ParentsTrusted = "trusted"
)

// Tracing says where spans of requests go, and of which.
type Tracing struct {
	// Endpoint is the URL of a collector that speaks OTLP over HTTP; empty: no
	// spans are made.
	Endpoint string `toml:"endpoint"`
	// Headers that it wants.
	Headers map[string]string `toml:"headers"`
	// SampleRatio of the requests that name no parent are traced, 0 to 1.
	SampleRatio float64 `toml:"sample_ratio"`
	// Parents are believed of "all" or of "trusted" peers.
	Parents string `toml:"parents"`
	// Service is the name that spans give.
	Service string `toml:"service"`
}

// URL is the whole one of the collector.
func (t *Tracing) URL() string {
	u, err := url.Parse(t.Endpoint)
	if t.Endpoint == "" || err != nil {
		return ""
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	return u.String()
}

// mask replaces what may be secret, in a copy, and reports whether there was anything.
func (t *Tracing) mask() bool {
	masked := make(map[string]string, len(t.Headers))
	for name := range t.Headers {
		masked[name] = hidden
	}
	t.Headers = masked
	return len(masked) > 0
}

func (v *validator) validateTracing() {
	t := v.config.Tracing
	if t.Endpoint == "" {
		for _, key := range []string{"headers", "sample_ratio", "parents", "service"} {
			if at := "tracing." + key; v.written(at) {
				v.report(at, `means nothing without tracing.endpoint: write that of a collector, such as "http://localhost:4318"`)
			}
		}
		return
	}
	u, err := url.Parse(t.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "" || u.User != nil {
		v.report("tracing.endpoint", fmt.Sprintf(`%s is not the URL of a collector: write it as in "http://localhost:4318"; names and passwords go into tracing.headers`, quoteTOML(shorten(t.Endpoint))))
	}
	for _, name := range slices.Sorted(maps.Keys(t.Headers)) {
		key, value := joinPath("tracing.headers", name), t.Headers[name]
		if !isToken(name) {
			v.report(key, fmt.Sprintf(`%s is not the name of a header field, such as "Authorization"`, quoteTOML(shorten(name))))
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
			v.report(key, "must be printable ASCII: nothing else passes in a header field")
		}
	}
	if t.SampleRatio < 0 || t.SampleRatio > 1 || t.SampleRatio != t.SampleRatio {
		v.report("tracing.sample_ratio", fmt.Sprintf("must be from 0 to 1, not %s: 0.1 is one request of ten", scalarText(t.SampleRatio)))
	}
	v.oneOf("tracing.parents", t.Parents, ParentsAll, ParentsTrusted)
	if t.Service == "" {
		v.report("tracing.service", `must not be empty: leave it out for "stoker"`)
	}
}
