//go:build !linux

package meshless

import "path/filepath"

// socketAddress returns an address for bind or connect that means path, until release is called. Only Linux has a way to
// reach a path that is longer than an address; elsewhere the system's own error says so.
func socketAddress(path string) (address string, release func(), err error) {
	path, err = filepath.Abs(path)
	return path, func() {}, err
}
