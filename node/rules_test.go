package node_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/call"
)

// NODE-36: a node offers nobody an operation that grants rights: what is there
// without being registered only tells and echoes.
func TestNODE36NoOperationGrantsRights(t *testing.T) {
	n := newNode(t, nil)
	var open []string
	for _, spec := range n.Calls().Operations() {
		if spec.Visibility == call.External {
			open = append(open, spec.Name)
			require.Equal(t, call.OpQuery, spec.Type, spec.Name)
			require.NoError(t, spec.Access.Check(nil))
		}
	}
	slices.Sort(open)
	require.Equal(t, []string{"node/echo", "node/info", "services/list", "services/schema"}, open)
}
