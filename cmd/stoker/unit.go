package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"

	"github.com/spf13/cobra"

	"stoker/config"
)

//go:embed unit/stoker.service.tmpl
var unitText string

var unitTemplate = template.Must(template.New("stoker.service").Parse(unitText))

// unitFacts are what a unit file says of its machine.
type unitFacts struct {
	Binary string
	Config string
	RunDir string
	// RuntimeDirectory is the run directory below /run; empty when it is elsewhere.
	RuntimeDirectory string
	// StateDirectory is the state directory below /var/lib; empty when it is elsewhere.
	StateDirectory string
	// Home: it is the engines' home too, since their user has none.
	Home bool
	// StopSeconds is the unit's time limit for a stop.
	StopSeconds int
	// User runs master and engines; empty: root. Groups, blank-separated, are the GPUs'.
	User   string
	Groups string
	// Strict: nobody's home is written to.
	Strict bool
	// Writable are further paths to write to.
	Writable []string
	// LowPort: a port below 1024 is listened on, by somebody who is not root.
	LowPort bool
	// Modprobe is the path of nvidia-modprobe; empty where there is none.
	Modprobe string
	// Devices are the GPUs' device files.
	Devices []string
}

// genericUnit is the example's: a host with NVIDIA's driver and a user for stoker.
var genericUnit = unitFacts{
	Binary: "/usr/local/bin/stoker", Config: "/etc/stoker/stoker.toml",
	RunDir: "/run/stoker", RuntimeDirectory: "stoker", StateDirectory: "stoker", Home: true,
	StopSeconds: 150, User: "stoker", Groups: "video render", Strict: true,
	Modprobe: "/usr/bin/nvidia-modprobe",
}

func newSystemdCommand() *cobra.Command {
	var file, account string
	cmd := &cobra.Command{
		Use:   "systemd",
		Short: "Print a systemd unit for this machine",
		Long: `Print a systemd unit for this binary, a configuration file and this machine's
GPUs, hardened as far as GPU engines allow; each setting says why it is there.
The file need not exist yet; where it does, its run directory, its listeners and
its time limits are taken from it.`,
		Example: `  stoker systemd -c /etc/stoker/stoker.toml --user stoker > /etc/systemd/system/stoker.service
  systemctl daemon-reload && systemctl enable --now stoker`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			facts, err := factsOf(file, account)
			if err != nil {
				return err
			}
			if facts.RuntimeDirectory == "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "stoker: the run directory %s is not below /run: see to it that it exists, belongs to the service's user and survives a crash of the master\n", facts.RunDir)
			}
			return printUnit(cmd.OutOrStdout(), facts)
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", genericUnit.Config, "configuration file of the service")
	cmd.Flags().StringVar(&account, "user", "", "user to run master and engines as (default root)")
	return cmd
}

// printUnit writes the unit file.
func printUnit(w io.Writer, facts *unitFacts) error {
	if err := unitTemplate.Execute(w, facts); err != nil {
		return fmt.Errorf("print unit: %w", err)
	}
	return nil
}

// factsOf looks at this machine.
func factsOf(file, account string) (*unitFacts, error) {
	facts := unitFacts{User: account, Devices: gpuDevices()}
	if account == "root" {
		facts.User = ""
	}
	var err error
	if facts.Binary, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find this binary: %w", err)
	}
	if facts.Config, err = filepath.Abs(file); err != nil {
		return nil, fmt.Errorf("find the configuration: %w", err)
	}
	for _, path := range []string{facts.Binary, facts.Config} {
		if strings.ContainsAny(path, " \t\n\"'\\%$") {
			return nil, fmt.Errorf("the path %q has characters that mean something else in a unit file; choose another", path)
		}
	}
	cfg := config.Default()
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		if cfg, err = config.Load(file); err != nil {
			return nil, err
		}
	}
	if cfg.RunDir == config.DefaultRunDir() {
		// The default depends on who we are, and the service's user is another.
		cfg.MoveRunDir(genericUnit.RunDir)
	}
	facts.ofConfig(cfg)
	if facts.User != "" {
		if err := facts.ofUser(); err != nil {
			return nil, err
		}
	}
	if path, err := exec.LookPath("nvidia-modprobe"); err == nil {
		facts.Modprobe = path
	}
	return &facts, nil
}

// ofConfig takes what the service's configuration tells.
func (f *unitFacts) ofConfig(cfg *config.Config) {
	f.RunDir = cfg.RunDir
	if below, ok := strings.CutPrefix(filepath.Clean(cfg.RunDir), "/run/"); ok {
		f.RuntimeDirectory = below
	} else {
		f.Writable = append(f.Writable, cfg.RunDir)
	}
	switch name, ok := strings.CutPrefix(filepath.Clean(cfg.StateDir), "/var/lib/"); {
	case ok:
		f.StateDirectory = name
	case cfg.StateDir != cfg.RunDir:
		f.Writable = append(f.Writable, cfg.StateDir)
	}
	// A little longer than the shutdown bounds itself.
	f.StopSeconds = int(cfg.Shutdown.HardLimit.Std().Seconds()) + 30
	for _, address := range cfg.Doors() {
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			if dir := filepath.Dir(path); dir != filepath.Clean(cfg.RunDir) {
				f.Writable = append(f.Writable, dir)
			}
			continue
		}
		f.LowPort = f.LowPort || f.User != "" && isLowPort(address)
	}
	slices.Sort(f.Writable)
	f.Writable = slices.Compact(f.Writable)
}

func isLowPort(address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n > 0 && n < 1024
}

// ofUser takes what the system tells of the service's user. One that has a home
// keeps its caches there; a system user gets a home of the service's.
func (f *unitFacts) ofUser() error {
	who, err := user.Lookup(f.User)
	if err != nil {
		return usageError(fmt.Errorf("%w: create it first (useradd --system %s), or name another with --user", err, f.User))
	}
	home, err := os.Stat(who.HomeDir)
	if err != nil || !home.IsDir() || !strings.HasPrefix(who.HomeDir, "/home/") {
		f.Home, f.Strict = true, true
		if f.StateDirectory == "" {
			f.StateDirectory = genericUnit.StateDirectory
		}
	}
	f.Groups = strings.Join(groupsOf(f.Devices), " ")
	return nil
}

// groupsOf names the groups that own device files, root's aside.
func groupsOf(devices []string) []string {
	var names []string
	for _, device := range devices {
		info, err := os.Stat(device)
		if err != nil {
			continue
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if !ok || owner.Gid == 0 {
			continue
		}
		group, err := user.LookupGroupId(strconv.FormatUint(uint64(owner.Gid), 10))
		if err == nil && !slices.Contains(names, group.Name) {
			names = append(names, group.Name)
		}
	}
	slices.Sort(names)
	return names
}

// gpuDevices are the device files of this machine's GPUs: NVIDIA's, and those
// that AMD's and Intel's drivers have in common.
func gpuDevices() []string {
	var found []string
	for _, pattern := range []string{"/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/kfd", "/dev/dri/renderD*"} {
		paths, _ := filepath.Glob(pattern) // a constant pattern is never malformed
		for _, path := range paths {
			if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeCharDevice != 0 {
				found = append(found, path)
			}
		}
	}
	return found
}
