//go:build linux

package secrets

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// memory is what a dump of a process has, and beside that what is kept out of
// dumps (MADV_DONTDUMP).
type memory struct{ dumped, kept []byte }

// dump reads the memory of a process as root can.
func dump(t *testing.T, pid int) memory {
	t.Helper()
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	require.NoError(t, err)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	require.NoError(t, err)
	defer mem.Close()
	var m memory
	var begin, end int64
	var rights string
	for lines := bufio.NewScanner(bytes.NewReader(smaps)); lines.Scan(); {
		line := lines.Text()
		fields := strings.Fields(line)
		var from, to int64
		var may string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &may); n == 3 {
			begin, end, rights = from, to, may
			continue
		}
		if len(fields) == 0 || fields[0] != "VmFlags:" || rights[0] != 'r' || slices.Contains(fields, "io") || slices.Contains(fields, "pf") {
			continue
		}
		part := make([]byte, end-begin)
		if _, err := mem.ReadAt(part, begin); err != nil {
			continue // [vvar] and its like are not memory
		}
		if slices.Contains(fields, "dd") {
			m.kept = append(m.kept, part...)
		} else {
			m.dumped = append(m.dumped, part...)
		}
	}
	require.NotEmpty(t, m.dumped)
	return m
}
