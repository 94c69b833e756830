package main

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"stoker/balancer"
	"stoker/balancer/quarantine"
	"stoker/balancer/tokens"
	"stoker/balancer/tracing"
	"stoker/config"
	"stoker/supervisor"
	"stoker/upstream"
)

// names is a registerer that writes down what is registered, whether or not it
// has a value yet.
type names struct {
	prometheus.Registerer
	all map[string]bool
}

var fqName = regexp.MustCompile(`fqName: "([^"]+)"`)

func (n names) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc)
	go func() { c.Describe(descs); close(descs) }()
	for d := range descs {
		n.all[fqName.FindStringSubmatch(d.String())[1]] = true
	}
	return n.Registerer.Register(c)
}

func (n names) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := n.Register(c); err != nil {
			panic(err)
		}
	}
}

func TestMetricsReferenceIsTrue(t *testing.T) {
	made := names{prometheus.NewRegistry(), map[string]bool{}}
	newMasterMetrics(made)
	newTLSMetrics(made, new(obtained).held)
	newCrashMetrics(made)
	made.MustRegister(upstream.NewCollector(nil))
	balancer.NewMetrics(made)
	tokens.NewMetrics(made)
	quarantine.NewMetrics(made)
	tracing.NewMetrics(made)
	cfg := config.Default()
	cfg.RunDir = t.TempDir()
	if _, err := supervisor.New(supervisor.Options{Config: cfg, Log: hclog.NewNullLogger(), Registerer: made}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(stoker_[a-z_]+)`").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = true
	}
	for _, name := range sorted(made.all) {
		if !documented[name] {
			t.Errorf("docs/metrics.md does not know %s", name)
		}
	}
	for _, name := range sorted(documented) {
		if !made.all[name] {
			t.Errorf("docs/metrics.md knows %s, which does not exist", name)
		}
	}
}

func sorted(set map[string]bool) []string {
	var all []string
	for name := range set {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
