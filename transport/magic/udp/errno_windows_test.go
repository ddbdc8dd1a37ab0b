package udp_test

import "golang.org/x/sys/windows"

const errInUse = windows.WSAEADDRINUSE
