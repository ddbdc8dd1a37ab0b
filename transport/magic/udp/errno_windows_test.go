package udp_test

import "golang.org/x/sys/windows"

const addressInUse = windows.WSAEADDRINUSE
