package relay

import (
	"net/netip"

	"github.com/alkdev/alknet-p2p/transport/magic/udp"
)

const reflectSize = 40

func AppendReflectRequest(dst []byte, tx [12]byte) []byte {
	dst = append(dst, 0x0c)
	dst = append(dst, tx[:]...)
	return append(dst, make([]byte, reflectSize-13)...)
}

func ParseReflectRequest(b []byte) (tx [12]byte, err error) {
	if len(b) < reflectSize || b[0] != 0x0c {
		return tx, ErrFrame
	}
	return [12]byte(b[1:13]), nil
}

func AppendReflectReply(dst []byte, tx [12]byte, a netip.AddrPort) []byte {
	dst = append(dst, 0x0d)
	dst = append(dst, tx[:]...)
	raw := a.Addr().As16()
	full := append(raw[:], byte(a.Port()>>8), byte(a.Port()))
	for i := range full {
		full[i] ^= tx[i%12]
	}
	return append(dst, full...)
}

func ParseReflectReply(b []byte) (tx [12]byte, a netip.AddrPort, err error) {
	if len(b) != 31 || b[0] != 0x0d {
		return tx, a, ErrFrame
	}
	tx = [12]byte(b[1:13])
	var full [18]byte
	for i := range full {
		full[i] = b[13+i] ^ tx[i%12]
	}
	return tx, netip.AddrPortFrom(netip.AddrFrom16([16]byte(full[:16])).Unmap(), uint16(full[16])<<8|uint16(full[17])), nil
}

type Reflector struct {
	c    *udp.Conn
	done chan struct{}
}

func NewReflector(c *udp.Conn) *Reflector {
	r := &Reflector{c: c, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		ms := make([]udp.Message, 8)
		for i := range ms {
			ms[i].Buf = make([]byte, 65536)
		}
		for {
			n, err := c.ReadBatch(ms)
			if err != nil {
				return
			}
			for _, m := range ms[:n] {
				if tx, err := ParseReflectRequest(m.Buf[:m.N]); err == nil {
					_ = c.Write(AppendReflectReply(nil, tx, m.From), m.From, 0, 0)
				}
			}
		}
	}()
	return r
}

func (r *Reflector) Close() error {
	err := r.c.Close()
	<-r.done
	return err
}
