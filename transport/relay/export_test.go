package relay

import "io"

// FrameReader is the reader of links and of the server.
type FrameReader struct{ r *frameReader }

// NewFrameReader returns a reader of frames.
func NewFrameReader(r io.Reader) FrameReader { return FrameReader{newFrameReader(r)} }

// Greeting returns the JSON of a Hello or Welcome.
func (r FrameReader) Greeting() ([]byte, error) { return r.r.greeting() }

// Next returns the next frame of a known type.
func (r FrameReader) Next() (Frame, error) { return r.r.next() }
