package netmon

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

var required = flag.Bool("natlab.required", false, "fail where a test would be skipped because there are no namespaces")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
