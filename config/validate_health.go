package config

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// probePlaceholders are what is replaced in a probe's command.
var probePlaceholders = append(slices.Clone(placeholders), "{address}")

// validateHealth checks how a pool's upstreams are asked how they are.
func (v *validator) validateHealth(i int, p *Pool) {
	key := func(name string) string { return v.poolKey(i, "health."+name) }
	h := &p.Health
	v.oneOf(key("kind"), h.Kind, "http", "tcp", "command", "canary", "grpc")
	switch {
	case h.Kind == "grpc" && p.Protocol != HTTP2 && !v.isFaulty(v.poolKey(i, "protocol")):
		v.report(key("kind"), fmt.Sprintf("%q asks over HTTP/2, and the pool's protocol is %q: write protocol = %q", h.Kind, p.Protocol, HTTP2))
	case h.Kind != "grpc" && h.Service != "" && !v.isFaulty(key("kind")):
		v.report(key("service"), fmt.Sprintf("is asked about by nobody: kind is %q; write kind = \"grpc\", or leave it out", h.Kind))
	}
	if h.Path != "" {
		v.requestPath(key("path"), h.Path)
	}
	v.duration(key("interval"), h.Interval, shortest)
	v.duration(key("timeout"), h.Timeout, briefest)
	v.number(key("failures"), h.Failures, 1, maxCount)
	v.number(key("successes"), h.Successes, 1, maxCount)
	v.duration(key("stall_timeout"), h.StallTimeout, 0)
	v.validateProbeCommand(key, h, p.Remote())
	v.validateMetricsPage(key, h)
	v.validateCanary(func(name string) string { return key("canary." + name) }, &h.Canary)
}

func (v *validator) validateProbeCommand(key func(string) string, h *Health, remote bool) {
	switch {
	case h.Kind == "command" && len(h.Command) == 0 && !v.isFaulty(key("command")):
		v.report(key("command"), `is missing: write the program that kind = "command" runs, such as ["sh", "-c", "test -S {socket}"]`)
	case h.Kind != "command" && len(h.Command) > 0 && !v.isFaulty(key("kind")):
		v.report(key("command"), fmt.Sprintf("is run by nobody: kind is %q; write kind = \"command\", or leave it out", h.Kind))
	}
	v.validateArgv(key("command"), h.Command, probePlaceholders...)
	for i, word := range h.Command {
		for _, own := range []string{"{socket}", "{port}", "{index}", "{gpus}"} {
			if remote && strings.Contains(word, own) {
				v.report(indexPath(key("command"), i), fmt.Sprintf("%s is a worker's: of a server there are {address} and {name}", own))
			}
		}
	}
}

// sampleName is a metric's, and how vLLM and SGLang write theirs.
var sampleName = regexp.MustCompile("^[A-Za-z_:][A-Za-z0-9_:]*$")

func (v *validator) validateMetricsPage(key func(string) string, h *Health) {
	if h.MetricsPath != "" {
		v.requestPath(key("metrics_path"), h.MetricsPath)
	}
	for _, list := range []struct {
		name    string
		samples []string
	}{{"progress_metrics", h.ProgressMetrics}, {"busy_metrics", h.BusyMetrics}, {"waiting_metrics", h.WaitingMetrics}, {"cache_metrics", h.CacheMetrics}} {
		name, samples := list.name, list.samples
		for i, sample := range samples {
			if !sampleName.MatchString(sample) {
				v.report(indexPath(key(name), i), fmt.Sprintf("%s is no metric's name: write it without labels, such as \"vllm:generation_tokens_total\"", quoteTOML(shorten(sample))))
			}
		}
		if len(samples) > 0 && h.MetricsPath == "" && !v.isFaulty(key("metrics_path")) {
			v.report(key(name), "are read from no page: write metrics_path = \"/metrics\" too")
		}
	}
	v.number(key("max_waiting"), h.MaxWaiting, 0, maxCount)
	v.number(key("max_cache_percent"), h.MaxCachePercent, 0, 100)
	v.duration(key("load_interval"), h.LoadInterval, shortest)
	for _, threshold := range []struct {
		name string
		most int
	}{{"max_waiting", h.MaxWaiting}, {"max_cache_percent", h.MaxCachePercent}} {
		if threshold.most > 0 && h.MetricsPath == "" && !v.isFaulty(key("metrics_path")) {
			v.report(key(threshold.name), "is compared with what no page says: write metrics_path = \"/metrics\" too")
		}
	}
}

func (v *validator) validateCanary(key func(string) string, c *Canary) {
	if c.Path != "" {
		v.requestPath(key("path"), c.Path)
	}
	v.duration(key("timeout"), c.Timeout, briefest)
	if c.Body != "" && !json.Valid([]byte(c.Body)) {
		v.report(key("body"), `is not JSON: write a small completion such as '{"prompt": "1", "max_tokens": 1}'`)
	}
	if c.Body != "" && c.Model != "" {
		v.report(key("model"), "is sent in the usual body alone: name the model in body, or leave one of them out")
	}
	if strings.ContainsFunc(c.APIKey, func(r rune) bool { return r <= ' ' || r > 0x7e }) {
		v.report(key("api_key"), "has characters that no header field takes: write the key alone")
	}
}
