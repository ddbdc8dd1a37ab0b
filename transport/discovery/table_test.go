package discovery

import (
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/stretchr/testify/require"
)

func TestTableIsBounded(t *testing.T) {
	one := sealed(t, 1)
	cost := len(one.Envelope()) + entryOverhead
	for name, table := range map[string]*table{
		"entries": newTable(3, 1<<20),
		"bytes":   newTable(100, 3*cost),
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			for k := byte(1); k <= 5; k++ {
				require.Nil(t, table.put(sealed(t, k).value(), time.Now()))
				require.NotNil(t, table.get(RecordKey(testID(1)), now), "the one in use went")
			}
			require.Nil(t, table.get(RecordKey(testID(3)), now))
			require.NotNil(t, table.get(RecordKey(testID(5)), now))
			require.Equal(t, 3, table.values.recent.Len())
		})
	}
}

func TestTableForgetsExpired(t *testing.T) {
	table := newTable(3, 1<<20)
	r := sealed(t, 1)
	require.Nil(t, table.put(r.value(), time.Now()))
	require.NotNil(t, table.get(RecordKey(r.Peer), r.Expiry.Add(-time.Millisecond)))
	require.Nil(t, table.get(RecordKey(r.Peer), r.Expiry))
	require.Zero(t, table.values.recent.Len())
	require.Zero(t, table.values.cost)
}

func TestStore(t *testing.T) {
	ctx := t.Context()
	s := newStore(3, 1<<20)
	key := ds.NewKey("/alknet/a")
	_, err := s.Get(ctx, key)
	require.ErrorIs(t, err, ds.ErrNotFound)
	value := []byte("value")
	require.NoError(t, s.Put(ctx, key, value))
	value[0] = 'X'
	got, err := s.Get(ctx, key)
	require.NoError(t, err)
	require.Equal(t, "value", string(got))
	size, err := s.GetSize(ctx, key)
	require.NoError(t, err)
	require.Equal(t, 5, size)
	has, err := s.Has(ctx, ds.NewKey("/alknet/b"))
	require.NoError(t, err)
	require.False(t, has)

	batch, err := s.Batch(ctx)
	require.NoError(t, err)
	require.NoError(t, batch.Put(ctx, ds.NewKey("/providers/x/1"), []byte("1")))
	require.NoError(t, batch.Put(ctx, ds.NewKey("/providers/x/2"), []byte("2")))
	require.NoError(t, batch.Commit(ctx))
	keys := func(prefix string) (keys []string) {
		res, err := s.Query(ctx, query.Query{Prefix: prefix, Orders: []query.Order{query.OrderByKey{}}})
		require.NoError(t, err)
		all, err := res.Rest()
		require.NoError(t, err)
		for _, e := range all {
			keys = append(keys, e.Key)
		}
		return keys
	}
	require.Equal(t, []string{"/alknet/a", "/providers/x/1", "/providers/x/2"}, keys(""))
	require.Equal(t, []string{"/providers/x/1", "/providers/x/2"}, keys("/providers/x"))

	// Full: the least recently used goes.
	_, err = s.Get(ctx, key)
	require.NoError(t, err)
	require.NoError(t, s.Put(ctx, ds.NewKey("/providers/x/3"), nil))
	require.Len(t, keys(""), 3)
	require.Contains(t, keys(""), "/alknet/a")
	require.NoError(t, s.Delete(ctx, key))
	require.NoError(t, s.Delete(ctx, key))
	require.NotContains(t, keys(""), "/alknet/a")
	require.NoError(t, s.Sync(ctx, key))
	require.NoError(t, s.Close())
}
