package meshless

import (
	"os"
	"path/filepath"
)

// maxAddressBytes is what sun_path holds besides the terminating zero (unix(7)).
const maxAddressBytes = 107

// ClientSocketPath returns where the agent listens in this pod: client/meshless in $MESHLESS_DIR, or in /meshlet.
func ClientSocketPath() string { return filepath.Join(podDir(), "client", "meshless") }

// ServerSocketPath returns where this pod's server of a service listens: server/<service> in $MESHLESS_DIR, or in /meshlet.
func ServerSocketPath(service string) string { return filepath.Join(podDir(), "server", service) }

func podDir() string {
	if dir := os.Getenv("MESHLESS_DIR"); dir != "" {
		return dir
	}
	return "/meshlet"
}
