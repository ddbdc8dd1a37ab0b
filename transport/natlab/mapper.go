package natlab

import (
	"os"
	"path/filepath"
)

// PortMapping says whether a home router gives public ports to programs that
// ask for them by UPnP, NAT-PMP or PCP.
type PortMapping string

// What a router does with requests. For all but the first it runs miniupnpd, of
// the Debian package miniupnpd-nftables.
const (
	NoPortMapping     PortMapping = ""        // nobody answers them
	PortMappingGrants PortMapping = "grants"  // ports from 1024 on
	PortMappingUPnP   PortMapping = "upnp"    // the same, and does not speak NAT-PMP and PCP
	PortMappingDenies PortMapping = "refuses" // answers, and refuses them all
)

// mapperTable holds what miniupnpd adds. Its chains come before the router's
// own ones.
const mapperTable = `add table inet miniupnpd
delete table inet miniupnpd
table inet miniupnpd {
	chain mapped { }
	chain mapped_before { }
	chain mapped_after { }
	chain before {
		type nat hook prerouting priority dstnat - 10; policy accept;
		jump mapped_before
	}
	chain after {
		type nat hook postrouting priority srcnat - 10; policy accept;
		jump mapped_after
	}
	chain forward {
		type filter hook forward priority filter - 10; policy accept;
		jump mapped
	}
}
`

// startMapper runs the router's miniupnpd, without mappings. It ends with the
// lab, as all programs in it.
func (r *router) startMapper() error {
	if r.policy.mapper == NoPortMapping {
		return nil
	}
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // read when the daemon has gone into the background
	// The only program there is the one of an earlier start.
	if err := killIn([]namespace{r.space}); err != nil {
		return err
	}
	if err := r.space.nft(mapperTable); err != nil {
		return err
	}
	natPMP := "yes" // and PCP
	if r.policy.mapper == PortMappingUPnP {
		natPMP = "no"
	}
	rules := "allow 1024-65535 0.0.0.0/0 1024-65535\n"
	if r.policy.mapper == PortMappingDenies {
		rules = ""
	}
	config := filepath.Join(dir, "miniupnpd.conf")
	if err := os.WriteFile(config, []byte(`ext_ifname=wan
listening_ip=lan
enable_natpmp=`+natPMP+`
enable_upnp=yes
secure_mode=yes
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
upnp_forward_chain=mapped
upnp_nat_chain=mapped_before
upnp_nat_postrouting_chain=mapped_after
uuid=5a8c1f4e-0000-4000-8000-000000000001
`+rules+"deny 0-65535 0.0.0.0/0 0-65535\n"), 0o600); err != nil {
		return err
	}
	return r.space.do(func() error {
		return tool("", "miniupnpd", "-f", config, "-P", filepath.Join(dir, "pid"))
	})
}
