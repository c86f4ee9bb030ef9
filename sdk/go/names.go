package meshless

import "strings"

const maxLabelBytes = 63

// isLabel reports whether text is a DNS label as RFC 1123 defines it, in lower case.
func isLabel(text string) bool {
	if len(text) == 0 || len(text) > maxLabelBytes {
		return false
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-' && i > 0 && i < len(text)-1:
		default:
			return false
		}
	}
	return true
}

// isServiceID reports whether text is <service>.<meshlet>.<namespace>.
func isServiceID(text string) bool {
	service, rest, one := strings.Cut(text, ".")
	meshlet, namespace, two := strings.Cut(rest, ".")
	return one && two && isLabel(service) && isLabel(meshlet) && isLabel(namespace)
}
