//go:build keeperv1

package main

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
	debug.SetGCPercent(20)
	debug.SetMemoryLimit(16 << 20)
	if runtime.GOMAXPROCS(0) > 2 {
		runtime.GOMAXPROCS(2)
	}
	// A name of its own in ps; "killall stoker" then means the master.
	_ = os.WriteFile("/proc/self/comm", []byte("stoker-keeper"), 0o600) // nothing depends on it
}

// shed gives back what the start needed and the rest of the life does not: free
// heap, and the program's code, of which the initialisation of every package
// that the master needs has touched several megabytes. What is still needed of
// it comes back from the page cache by itself.
func shed() {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close() //nolint:errcheck // only read
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		// 00400000-0076e000 r-xp 00000000 fe:00 1234    /usr/bin/stoker
		f := strings.Fields(lines.Text())
		// Code alone: other read-only pages may hold relocations, and would come back without them.
		if len(f) < 6 || f[1] != "r-xp" || strings.Join(f[5:], " ") != exe {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil && start < end {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
		}
	}
}
