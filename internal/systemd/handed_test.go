package systemd

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is also the process that takes what was handed in: descriptors have
// fixed numbers there, which a test's own process uses for other things.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "take" {
		takeAndTell(os.Args[2:])
		return
	}
	os.Exit(m.Run())
}

// taken is what the process tells.
type taken struct {
	Handed   []handedFacts
	Rejected []rejectedFacts
	Left     []string // variables
}

type handedFacts struct {
	Name    string
	Stored  bool
	Address string
	// Fits is the answer for each address asked about.
	Fits []bool
}

type rejectedFacts struct {
	Name   string
	Stored bool
	Reason string
}

func takeAndTell(addresses []string) {
	if os.Getenv("LISTEN_PID") == "self" {
		os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
	}
	handed, rejected := Take()
	var told taken
	for _, h := range handed {
		facts := handedFacts{Name: h.Name, Stored: h.Stored, Address: h.Listener.Addr().String()}
		for _, address := range addresses {
			facts.Fits = append(facts.Fits, h.Fits(context.Background(), address))
		}
		told.Handed = append(told.Handed, facts)
	}
	for _, r := range rejected {
		told.Rejected = append(told.Rejected, rejectedFacts{r.Name, r.Stored, r.Reason.Error()})
	}
	for _, entry := range os.Environ() {
		if strings.HasPrefix(entry, "LISTEN_") {
			told.Left = append(told.Left, entry)
		}
	}
	// A child sees what is inherited: none of the sockets.
	out, err := exec.Command("sh", "-c", "ls -l /proc/self/fd").Output()
	if err != nil || strings.Contains(string(out), "socket:") {
		told.Left = append(told.Left, "a child inherits: "+string(out))
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		panic(err)
	}
}

// take runs the process with the files handed in under the names.
func take(t *testing.T, pid string, names []string, files []*os.File, addresses ...string) taken {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"take"}, addresses...)...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0",
		"LISTEN_PID="+pid, fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	cmd.ExtraFiles, cmd.Stderr = files, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var told taken
	if err := json.Unmarshal(out, &told); err != nil {
		t.Fatal(err)
	}
	return told
}

func fileOf(t *testing.T, listener net.Listener) *os.File {
	t.Helper()
	file, err := listener.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func TestTake(t *testing.T) {
	tcp := listen(t, "tcp", "127.0.0.1:0")
	every := listen(t, "tcp", ":0")
	path := filepath.Join(t.TempDir(), "s")
	local := listen(t, "unix", path)
	_, port, _ := net.SplitHostPort(tcp.Addr().String())
	_, everyPort, _ := net.SplitHostPort(every.Addr().String())

	// The name of an address that is not what the socket is bound to: a port 0.
	stored := StoredName("127.0.0.1:0")
	told := take(t, "self", []string{stored, "stoker.socket", "http"}, []*os.File{fileOf(t, tcp), fileOf(t, every), fileOf(t, local)},
		"127.0.0.1:0", "127.0.0.1:"+port, "localhost:"+port, "127.0.0.2:"+port, ":"+everyPort, "[::]:"+everyPort, "unix:"+path, "unix:/other", "nonsense")
	want := taken{Handed: []handedFacts{
		{Name: stored, Stored: true, Address: tcp.Addr().String(), Fits: []bool{true, true, true, false, false, false, false, false, false}},
		{Name: "stoker.socket", Address: every.Addr().String(), Fits: []bool{false, false, false, false, true, true, false, false, false}},
		{Name: "http", Address: path, Fits: []bool{false, false, false, false, false, false, true, false, false}},
	}}
	if !reflect.DeepEqual(told, want) {
		t.Errorf("got  %+v\nwant %+v", told, want)
	}
}

// TestTakeRejects: what does not listen is named, with its reason, and the rest is taken.
func TestTakeRejects(t *testing.T) {
	good := listen(t, "tcp", "127.0.0.1:0")
	shut := listen(t, "tcp", "127.0.0.1:0")
	raw, err := shut.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RD) }); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	told := take(t, "self", []string{StoredName(":1"), "file", "good"}, []*os.File{fileOf(t, shut), null, fileOf(t, good)})
	if len(told.Handed) != 1 || told.Handed[0].Name != "good" {
		t.Errorf("handed: %+v", told.Handed)
	}
	if len(told.Rejected) != 2 ||
		!told.Rejected[0].Stored || !strings.Contains(told.Rejected[0].Reason, "does not listen") ||
		told.Rejected[1].Stored || !strings.Contains(told.Rejected[1].Reason, "not a socket") {
		t.Errorf("rejected: %+v", told.Rejected)
	}
}

// TestTakeNothing: descriptors that are meant for another process (a shell
// below a unit that starts stoker by hand) are not ours, and the variables go.
func TestTakeNothing(t *testing.T) {
	listener := listen(t, "tcp", "127.0.0.1:0")
	for _, pid := range []string{"1", "", "x"} {
		told := take(t, pid, []string{"stoker.socket"}, []*os.File{fileOf(t, listener)})
		if len(told.Handed) != 0 || len(told.Rejected) != 0 {
			t.Errorf("LISTEN_PID=%q: %+v", pid, told)
		}
		for _, left := range told.Left {
			if strings.HasPrefix(left, "LISTEN_") {
				t.Errorf("LISTEN_PID=%q: %s is still set", pid, left)
			}
		}
	}
}

func TestStoredName(t *testing.T) {
	long := "unix:/" + strings.Repeat("é:", 80)
	seen := map[string]string{}
	for _, c := range []struct{ address, want string }{
		{"127.0.0.1:8000", "stoker-listen-127.0.0.1%3A8000"},
		{":8000", "stoker-listen-%3A8000"},
		{"[::1]:8000", "stoker-listen-[%3A%3A1]%3A8000"},
		{"unix:/run/stoker/http.sock", "stoker-listen-unix%3A/run/stoker/http.sock"},
		{"unix:/a b\n%3A", "stoker-listen-unix%3A/a%20b%0A%253A"},
		{long, ""},
		{long + "x", ""},
	} {
		got := StoredName(c.address)
		if c.want != "" && got != c.want {
			t.Errorf("%q: got %s, want %s", c.address, got, c.want)
		}
		if len(got) > longestName || strings.Contains(got, ":") {
			t.Errorf("%q: %s (%d bytes) is no name", c.address, got, len(got))
		}
		if other, taken := seen[got]; taken {
			t.Errorf("%q and %q have one name", c.address, other)
		}
		seen[got] = c.address
	}
}
