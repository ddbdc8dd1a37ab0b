package vault

import (
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const about = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"

func unlockedVault(t *testing.T, c Config) *Vault {
	t.Helper()
	v, err := New(c)
	require.NoError(t, err)
	m, err := ParseMnemonic([]byte(about))
	require.NoError(t, err)
	require.NoError(t, v.Unlock(m, nil))
	return v
}

// cached returns the cache's own key at a path, without counting as a use.
func (v *Vault) cached(path Path) *DerivedKey {
	v.state.mu.Lock()
	defer v.state.mu.Unlock()
	element := v.state.cache.byID[cacheKey{Ed25519, path}]
	if element == nil {
		return nil
	}
	return element.Value.(*cacheEntry).key
}

func derive(t *testing.T, v *Vault, path Path) {
	t.Helper()
	_, err := v.PublicKey(path)
	require.NoError(t, err)
}

func requireWiped(t *testing.T, k *DerivedKey) {
	t.Helper()
	require.ErrorIs(t, k.Use(func([]byte) {}), ErrWiped)
}

func TestCacheLeastRecentlyUsed(t *testing.T) {
	v := unlockedVault(t, Config{CacheSize: 2})
	defer v.Close()
	derive(t, v, "m/1'")
	derive(t, v, "m/2'")
	first, second := v.cached("m/1'"), v.cached("m/2'")
	require.NotNil(t, first)
	require.NotNil(t, second)
	derive(t, v, "m/1h") // a hit, in another spelling
	require.Same(t, first, v.cached("m/1'"))
	derive(t, v, "m/3'")
	require.Nil(t, v.cached("m/2'"))
	requireWiped(t, second)
	require.Same(t, first, v.cached("m/1'"))
	require.NotNil(t, v.cached("m/3'"))
}

func TestCacheDefaultAndOff(t *testing.T) {
	v := unlockedVault(t, Config{})
	defer v.Close()
	for n := range DefaultCacheSize + 1 {
		derive(t, v, Path("m/"+strconv.Itoa(n)+"'"))
	}
	require.Equal(t, DefaultCacheSize, v.state.cache.order.Len())
	require.Nil(t, v.cached("m/0'"))
	require.NotNil(t, v.cached("m/1'"))

	off := unlockedVault(t, Config{CacheSize: -1})
	defer off.Close()
	derive(t, off, "m/1'")
	require.Nil(t, off.cached("m/1'"))
	require.Nil(t, off.state.sweep)
}

// A key of another type at the same path is another entry (D5).
func TestCacheByType(t *testing.T) {
	c := newCache(time.Hour, 4)
	key := &DerivedKey{KeyType: Ed25519, private: newSecret([]byte{1})}
	c.put(cacheKey{Ed25519, "m/1'"}, key)
	require.Nil(t, c.get(cacheKey{"another", "m/1'"}))
	require.Same(t, key, c.get(cacheKey{Ed25519, "m/1'"}))
}

// The time to live counts from the derivation: a hit does not prolong it.
func TestCacheExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := unlockedVault(t, Config{})
		defer v.Close()
		derive(t, v, "m/1'")
		first := v.cached("m/1'")
		time.Sleep(30 * time.Minute)
		derive(t, v, "m/1'")
		derive(t, v, "m/2'")
		second := v.cached("m/2'")
		time.Sleep(30 * time.Minute) // exactly as old as allowed
		synctest.Wait()
		derive(t, v, "m/1'")
		require.Same(t, first, v.cached("m/1'"))
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Nil(t, v.cached("m/1'"), "swept by the timer, without any use")
		requireWiped(t, first)
		require.Same(t, second, v.cached("m/2'"))
		time.Sleep(30*time.Minute + time.Nanosecond)
		synctest.Wait()
		require.Nil(t, v.cached("m/2'"))
		requireWiped(t, second)
		require.Nil(t, v.state.sweep, "no timer for an empty cache")

		derive(t, v, "m/3'")
		require.NotNil(t, v.state.sweep, "and again one for the next key")
	})
}

// An expired key is not served even when the timer has not run yet.
func TestCacheLazyExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(time.Hour, 4)
		id, key := cacheKey{Ed25519, "m/1'"}, &DerivedKey{KeyType: Ed25519, private: newSecret([]byte{1})}
		c.put(id, key)
		time.Sleep(time.Hour)
		require.Same(t, key, c.get(id))
		time.Sleep(time.Nanosecond)
		require.Nil(t, c.get(id))
		requireWiped(t, key)
	})
}

func TestLockWipes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := unlockedVault(t, Config{})
		derive(t, v, "m/1'")
		key, seed := v.cached("m/1'"), *v.state.seed
		require.NoError(t, seed.use(func(b []byte) { require.NotZero(t, b) }))
		v.Lock()
		requireWiped(t, key)
		require.ErrorIs(t, seed.use(func([]byte) {}), ErrWiped)
		require.Nil(t, v.state.sweep)

		// A timer of before the lock leaves the keys of after it alone.
		m, err := ParseMnemonic([]byte(about))
		require.NoError(t, err)
		time.Sleep(30 * time.Minute)
		require.NoError(t, v.Unlock(m, nil))
		derive(t, v, "m/1'")
		time.Sleep(45 * time.Minute)
		synctest.Wait()
		require.NotNil(t, v.cached("m/1'"))
		require.NoError(t, v.Close())
	})
}

// A sweep that was under way when the vault was locked leaves the timer of the
// keys of after it alone.
func TestLateSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := unlockedVault(t, Config{})
		derive(t, v, "m/1'")
		s := v.state
		s.mu.Lock()
		time.Sleep(DefaultCacheTTL + time.Nanosecond) // the timer fires, and waits for the lock
		s.lockLocked()
		s.cache.put(cacheKey{Ed25519, "m/2'"}, &DerivedKey{KeyType: Ed25519, private: newSecret([]byte{1})})
		s.scheduleSweep()
		timer := s.sweep
		s.mu.Unlock()
		synctest.Wait()
		require.NotNil(t, timer)
		require.Same(t, timer, s.sweep)
		require.NoError(t, v.Close())
	})
}

// A vault that was dropped without Close is wiped by the collector.
func TestDroppedVaultIsWiped(t *testing.T) {
	seed := func() secret {
		v := unlockedVault(t, Config{CacheSize: -1})
		return *v.state.seed
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		return seed.use(func([]byte) {}) != nil
	}, 10*time.Second, time.Millisecond)
}
