package keeper

import (
	"bufio"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// beSmall keeps one keeper per engine affordable.
func beSmall() {
	debug.SetMemoryLimit(16 << 20)
	if runtime.GOMAXPROCS(0) > 2 {
		runtime.GOMAXPROCS(2)
	}
	// A name of its own in ps; "killall stoker" then means the master.
	_ = os.WriteFile("/proc/self/comm", []byte("stoker-keeper"), 0o600) // nothing depends on it
}

// beThrifty collects before garbage piles up.
func beThrifty() { debug.SetGCPercent(20) }

// Shed gives back what the start needed and the rest of the life does not: free
// heap, and pages of the program, its code and its constants, of which the
// initialisation of every package that the master needs has touched most. What
// is still needed of them comes back from the page cache by itself.
func Shed() {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer maps.Close() //nolint:errcheck // only read
	var m mapping
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if header, ok := parseMapping(lines.Text()); ok {
			m = header
			continue
		}
		// Anonymous counts pages that differ from the file, such as relocated
		// ones: those would come back without what was written to them.
		f := strings.Fields(lines.Text())
		if len(f) >= 2 && f[0] == "Anonymous:" && f[1] == "0" && m.path == exe && !strings.Contains(m.perms, "w") {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
		}
	}
}

// mapping is one line of /proc/self/maps, or of what smaps tells.
type mapping struct {
	start, end  uintptr
	perms, path string
}

// parseMapping understands "00400000-0076e000 r-xp 00000000 fe:00 1234    /usr/bin/stoker".
func parseMapping(line string) (mapping, bool) {
	f := strings.Fields(line)
	if len(f) < 5 {
		return mapping{}, false
	}
	from, to, ok := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if !ok || err1 != nil || err2 != nil || start >= end {
		return mapping{}, false
	}
	return mapping{start: uintptr(start), end: uintptr(end), perms: f[1], path: strings.Join(f[5:], " ")}, true
}
