package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"stoker/config"
)

// exampleUnit is generated: STOKER_UPDATE=1 go test -run TestExampleUnit ./cmd/stoker
const exampleUnit = "../../examples/systemd/stoker.service"

// TestExampleUnit: the example is what the command prints for a generic host.
func TestExampleUnit(t *testing.T) {
	var want bytes.Buffer
	if err := printUnit(&want, &genericUnit); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("STOKER_UPDATE") == "1" {
		if err := os.WriteFile(exampleUnit, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(exampleUnit)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not what the template makes; run the test with STOKER_UPDATE=1", exampleUnit)
	}
}

// variants are units that the command can print, by what they must and must not hold.
var variants = map[string]struct {
	facts   unitFacts
	with    []string
	without []string
}{
	"root": {
		facts:   unitFacts{Binary: "/bin/true", Config: "/etc/s.toml", RunDir: "/run/stoker", RuntimeDirectory: "stoker", StopSeconds: 150},
		with:    []string{"ExecStart=/bin/true run -c /etc/s.toml --run-dir /run/stoker\n", "ProtectSystem=full\n", "RuntimeDirectoryPreserve=yes\n", "TimeoutStopSec=150\n"},
		without: []string{"\nUser=", "CapabilityBoundingSet", "ExecStartPre", "ProtectSystem=strict", "DeviceAllow"},
	},
	"a user with a home": {
		facts:   unitFacts{Binary: "/bin/true", Config: "/etc/s.toml", RunDir: "/run/stoker", RuntimeDirectory: "stoker", User: "alice"},
		with:    []string{"User=alice\n", "ProtectSystem=full\n", "\nCapabilityBoundingSet=\n"},
		without: []string{"StateDirectory", "HOME", "SupplementaryGroups", "AmbientCapabilities"},
	},
	"a system user, port 80, GPUs, sockets elsewhere": {
		facts: unitFacts{
			Binary: "/bin/true", Config: "/etc/s.toml", RunDir: "/srv/run", StateDirectory: "stoker", Home: true, User: "daemon", Groups: "render video",
			Strict: true, Writable: []string{"/srv/run", "/srv/sockets"}, LowPort: true, Modprobe: "/usr/bin/nvidia-modprobe", Devices: []string{"/dev/nvidia0", "/dev/nvidiactl"},
		},
		with: []string{
			"ReadWritePaths=/tmp /var/tmp /dev/shm /srv/run /srv/sockets\n", "AmbientCapabilities=CAP_NET_BIND_SERVICE\n",
			"SupplementaryGroups=render video\n", "DeviceAllow=/dev/nvidiactl rw\n", "ExecStartPre=-+/usr/bin/nvidia-modprobe -c 0 -u\n", "StateDirectory=stoker\n", "HOME=%S/stoker\n",
		},
		without: []string{"RuntimeDirectory"},
	},
}

func TestUnitVariants(t *testing.T) {
	for name, c := range variants {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if err := printUnit(&out, &c.facts); err != nil {
				t.Fatal(err)
			}
			for _, with := range c.with {
				if !strings.Contains(out.String(), with) {
					t.Errorf("%q is missing in\n%s", with, out.String())
				}
			}
			for _, without := range c.without {
				if strings.Contains(out.String(), without) {
					t.Errorf("%q should not be in\n%s", without, out.String())
				}
			}
			for _, never := range []string{"\nPrivateTmp", "\nPrivateDevices", "\nMemoryDenyWriteExecute", "\nProtectClock", "<no value>"} {
				if strings.Contains(out.String(), never) {
					t.Errorf("%q breaks GPU engines", never)
				}
			}
		})
	}
}

// TestSystemdUnderstandsTheUnits asks the tool that knows every directive.
func TestSystemdUnderstandsTheUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("SKIPPED: systemd-analyze is missing; install it: apt-get install systemd")
	}
	verify := func(t *testing.T, files ...string) {
		t.Helper()
		// It exits with 0 for what it only warns of.
		out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, files...)...).CombinedOutput()
		var complaints []string
		for line := range strings.Lines(string(out)) {
			// It loads the whole machine's units, and complains of those too.
			if strings.Contains(line, "stoker") {
				complaints = append(complaints, line)
			}
		}
		if len(complaints) > 0 {
			t.Errorf("%v: %s", err, strings.Join(complaints, ""))
		}
	}
	for name, c := range variants {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "stoker.service")
			var out bytes.Buffer
			if err := printUnit(&out, &c.facts); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			verify(t, file)
		})
	}
	t.Run("socket", func(t *testing.T) {
		// It wants the service that the socket is for, with a binary that exists.
		dir := t.TempDir()
		facts := variants["root"].facts
		var out bytes.Buffer
		if err := printUnit(&out, &facts); err != nil {
			t.Fatal(err)
		}
		socket, err := os.ReadFile("../../examples/systemd/stoker.socket")
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string][]byte{"stoker.service": out.Bytes(), "stoker.socket": socket} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		verify(t, filepath.Join(dir, "stoker.socket"))
	})
}

func TestFactsOfConfig(t *testing.T) {
	cfg, err := config.Parse("x.toml", []byte(`
listen = [":80", "unix:/srv/sockets/a.sock", "unix:/run/llm/b.sock"]
run_dir = "/run/llm"
shutdown.hard_limit = "5m"
[[pools]]
name = "p"
servers = [{address = "127.0.0.1:1"}]
`))
	if err != nil {
		t.Fatal(err)
	}
	f := unitFacts{User: "daemon"}
	f.ofConfig(cfg)
	if f.RuntimeDirectory != "llm" || f.StateDirectory != "llm" || !f.LowPort || f.StopSeconds != 330 || len(f.Writable) != 1 || f.Writable[0] != "/srv/sockets" {
		t.Errorf("got %+v", f)
	}
	f = unitFacts{}
	f.ofConfig(cfg)
	if f.LowPort {
		t.Error("root needs no capability for port 80")
	}
	cfg.MoveRunDir("/srv/run")
	f = unitFacts{}
	f.ofConfig(cfg)
	if f.RuntimeDirectory != "" || f.Writable[0] != "/run/llm" || f.Writable[1] != "/srv/run" {
		t.Errorf("got %+v", f)
	}
}
