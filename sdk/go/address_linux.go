package meshless

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

const oPath = 0x200000 // O_PATH, the same on every Linux that Go has; package syscall does not have it

// socketAddress returns an address for bind or connect that means path, of whatever length, until release is called.
func socketAddress(path string) (address string, release func(), err error) {
	if len(path) <= maxAddressBytes && path[0] == '/' { // a leading @ would name an abstract socket
		return path, func() {}, nil
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return "", nil, err
	}
	if len(path) <= maxAddressBytes {
		return path, func() {}, nil
	}
	folder, name := filepath.Split(path)
	descriptor, err := syscall.Open(folder, oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: folder, Err: err}
	}
	return "/proc/self/fd/" + strconv.Itoa(descriptor) + "/" + name, func() { _ = syscall.Close(descriptor) }, nil
}
