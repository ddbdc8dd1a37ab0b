package auth_test

import (
	"fmt"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

func ExamplePeers() {
	cfg, err := auth.ParseConfig([]byte(`{"auth": {"peers": [{
		"peer_id": "worker-a",
		"fingerprints": ["ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"],
		"scopes": ["fs:read"]
	}]}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	peers, err := auth.NewPeers(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	id, known := peers.ResolveFromFingerprint("ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
	fmt.Println(id.ID, known)
	fmt.Println(auth.Access{RequiredScopes: []string{"fs:read"}}.Check(&id))
	fmt.Println(auth.Access{RequiredScopes: []string{"fs:write"}}.Check(&id))
	// Output:
	// worker-a true
	// <nil>
	// missing required scope: fs:write
}
