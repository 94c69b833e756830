package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Default is the configuration that a file is decoded over: complete but for
// its pools, and nothing in it depends on what is running.
func Default() *Config {
	return &Config{
		Listen:         []string{"127.0.0.1:8000"},
		RunDir:         DefaultRunDir(),
		StateDir:       stateDirOf(DefaultRunDir()),
		LogFormat:      "text",
		LogLevel:       "info",
		AccessLog:      "stdout",
		OrphanTimeout:  Duration(5 * time.Minute),
		UpgradeTimeout: Duration(time.Minute),
		TLS: TLS{
			HandshakeTimeout: Duration(10 * time.Second),
			ClientAuth:       ClientAuthOff,
			ACME: ACME{
				Directory:     "https://acme-v02.api.letsencrypt.org/directory",
				Challenges:    []string{ChallengeTLS, ChallengeHTTP},
				CheckInterval: Duration(10 * time.Minute),
			},
		},
		Clients: Clients{
			HeadTimeout:  Duration(10 * time.Second),
			IdleTimeout:  Duration(75 * time.Second),
			BodyTimeout:  Duration(60 * time.Second),
			BodyRate:     64,
			WriteTimeout: Duration(15 * time.Second),
			WriteRate:    1024,
			BodyMiB:      64,
			ReadAheadMiB: 8,

			ReadAheadMemoryMiB: 512,
		},
		Shutdown: Shutdown{
			DrainTimeout: Duration(30 * time.Second),
			IdleGrace:    Duration(time.Second),
			HardLimit:    Duration(120 * time.Second),
		},
		Recorder: Recorder{Enabled: true, Keep: 20, BodyKiB: 64, MemoryMiB: 64},
		Crashes:  Crashes{Keep: 50, SizeMiB: 256},
		Quarantine: Quarantine{
			Enabled: true, TTL: Duration(time.Hour), BodyKiB: 1024, MemoryMiB: 128,
		},
		Resolver: Resolver{MinInterval: Duration(time.Second), MaxInterval: Duration(5 * time.Minute)},
		CORS:     defaultCORS(),

		ErrorPages:  ErrorPages{HTML: true, JSONPaths: []string{"/v1"}},
		Compression: defaultCompression(),
		Tracing:     Tracing{SampleRatio: 1, Parents: ParentsAll, Service: "stoker"},
	}
}

// DefaultPool is a pool of one worker with every default in place; it still
// needs a Command or Servers.
func DefaultPool(name string) Pool {
	return Pool{
		Name:         name,
		Protocol:     HTTP1,
		Policy:       "least_outstanding",
		WeighPrompts: 1000,
		CountTokens:  true,
		Drain:        "wait",
		OnDeath:      "isolate",
		MinRemaining: Duration(5 * time.Second),
		Affinity:     Affinity{LoadPercent: 125, MemoryMiB: 4},
		Migrate:      "off",
		Migration:    Migration{Limit: 3, StreamKiB: 1024, MemoryMiB: 256},
		Retry: Retry{
			Attempts:      3,
			BudgetPercent: 20,
			BudgetMin:     3,
		},
		Breaker: Breaker{
			Failures: 5,
			Within:   Duration(10 * time.Second),
			Open:     Duration(30 * time.Second),
		},
		Queue: Queue{
			Length:  1024,
			Timeout: Duration(60 * time.Second),
		},
		Health: Health{
			Kind:         "http",
			Interval:     Duration(2 * time.Second),
			Timeout:      Duration(2 * time.Second),
			Failures:     3,
			Successes:    1,
			StallTimeout: Duration(2 * time.Minute),
			LoadInterval: Duration(time.Second),
			Canary:       Canary{Timeout: Duration(30 * time.Second)},
		},
		TokenStallTimeout: Duration(30 * time.Second),
		ConnectTimeout:    Duration(2 * time.Second),
		DrainTimeout:      Duration(30 * time.Second),
		Workers:           1,
		StartTimeout:      Duration(20 * time.Minute),
		Restart: Restart{
			Delay:      Duration(time.Second),
			MaxDelay:   Duration(60 * time.Second),
			ResetAfter: Duration(10 * time.Minute),
		},
		Stop: Stop{
			Signal:      "TERM",
			Grace:       Duration(30 * time.Second),
			HungSignal:  "TERM",
			HungGrace:   Duration(2 * time.Second),
			GoneTimeout: Duration(60 * time.Second),
		},
	}
}

// DefaultServer is a server that takes its full share of requests. Its name is
// the address until the file gives it another.
func DefaultServer(address string) Server {
	return Server{Address: address, Name: address, Weight: 1}
}

// DefaultRunDir is where a master keeps its sockets when nobody says where:
// /run/stoker for root, else $XDG_RUNTIME_DIR/stoker, else a directory of the
// user's own below $TMPDIR, so that two users of one host never meet.
func DefaultRunDir() string { return runDirOf(os.Getuid()) }

func runDirOf(uid int) string {
	if uid == 0 {
		return "/run/stoker"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "stoker")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("stoker-%d", uid))
}

// stateDirOf is where a master with that run directory keeps what outlives it.
// What is below /run is gone after a reboot, and a user's part of it after the
// logout; so, unless systemd says a directory (StateDirectory=), /run/stoker goes
// with /var/lib/stoker, and $XDG_RUNTIME_DIR/stoker with the user's state. Anywhere
// else it is the run directory itself. Two masters of one host never meet.
func stateDirOf(runDir string) string {
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); filepath.IsAbs(dir) {
		return filepath.Clean(dir)
	}
	if name, ok := below(os.Getenv("XDG_RUNTIME_DIR"), runDir); ok {
		if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
			return filepath.Join(dir, name)
		}
		if home := os.Getenv("HOME"); filepath.IsAbs(home) {
			return filepath.Join(home, ".local", "state", name)
		}
		return runDir
	}
	if name, ok := below("/run", runDir); ok {
		return filepath.Join("/var/lib", name)
	}
	return runDir
}

// below says what path is called from an absolute dir that it is in.
func below(dir, path string) (string, bool) {
	if !filepath.IsAbs(dir) {
		return "", false
	}
	return strings.CutPrefix(path, strings.TrimSuffix(filepath.Clean(dir), "/")+"/")
}
