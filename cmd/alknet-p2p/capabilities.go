package main

import (
	"fmt"

	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/vault"
)

// checkCredentials refuses an operation that needs a credential nobody sealed,
// before anybody is asked for a passphrase.
func (c *config) checkCredentials(h home) error {
	var sealed map[string]bool
	for i, o := range c.Operations {
		if o.Credential == "" {
			continue
		}
		if sealed == nil {
			list, err := vault.NewCredentialStore(string(h)).List()
			if err != nil {
				return err
			}
			sealed = map[string]bool{}
			for _, credential := range list {
				sealed[credential.Name] = true
			}
		}
		if !sealed[o.Credential] {
			return c.places.of(i, "credential", fmt.Sprintf(
				"operation %s: there is no credential %q; seal it: alknet-p2p --home %s vault seal %s",
				o.Name, o.Credential, quote(string(h)), quote(o.Credential)))
		}
	}
	return nil
}

// openCredentials opens the credentials that operations need: what each of them
// is lent, by the credential's name (CALL-67).
func (a *app) openCredentials(h home, v *vault.Vault, c *config) (map[string]call.Capabilities, error) {
	lent := map[string]call.Capabilities{}
	store := vault.NewCredentialStore(string(h))
	for i, o := range c.Operations {
		if _, open := lent[o.Credential]; open || o.Credential == "" {
			continue
		}
		secret, err := store.Open(v, o.Credential)
		a.audit(h, "vault.open", o.Credential, err)
		if err != nil {
			return nil, c.places.of(i, "credential", fmt.Sprintf("operation %s: %s", o.Name, err))
		}
		lent[o.Credential] = call.Capabilities{}.WithAPIKey(o.Credential, secret)
		clear(secret)
	}
	return lent, nil
}
