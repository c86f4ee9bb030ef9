/* The client's side of the client handshake, version 2, written from protocol/handshake-v2.md and nothing else.
 * Bytes in, verdicts out: no I/O, no allocation. It proves that the page is enough. */
#ifndef HANDSHAKE_V2_H
#define HANDSHAKE_V2_H

#include <stddef.h>
#include <stdint.h>

enum { HS_MAX_LENGTH = 4096, HS_MAX_REQUEST = 3 + 1 + 255 + (3 + 4) + (3 + 55) + (3 + 64) + (3 + 63) + 3 };

struct hs_wishes {
    const char *service_id;
    uint32_t deadline_ms;    /* 0: none */
    const char *traceparent; /* NULL: none */
    const uint8_t *sticky_key;
    size_t sticky_key_size; /* 0: none */
    const char *version_pin; /* NULL: none */
    int accepts_descriptor;
};

/* Writes the request into out (HS_MAX_REQUEST bytes); returns its size, 0 if a wish does not fit the protocol. */
size_t hs_request(const struct hs_wishes *wishes, uint8_t *out);

enum hs_verdict { HS_MORE, HS_ESTABLISHED, HS_REFUSED, HS_PROTOCOL_ERROR, HS_CLOSED };

struct hs_value {
    int there;
    size_t size;
    uint8_t bytes[320];
};

struct hs_reply {
    int offered; /* whether the request had "accepts descriptor" */
    int form;    /* 1 or 2 */
    int code;
    struct hs_value connection_id, version, endpoint, retry_after, text;
    int descriptor_follows;
    uint8_t buffer[4 + HS_MAX_LENGTH];
    size_t have;
};

void hs_start(struct hs_reply *reply, int offered);

/* How many bytes may be read next without reaching beyond the reply. */
size_t hs_wanted(const struct hs_reply *reply);

/* Feeds bytes; size 0 is end-of-file. *used says how many belonged to the reply, the rest is the application's. */
enum hs_verdict hs_feed(struct hs_reply *reply, const uint8_t *data, size_t size, size_t *used);

enum hs_lease_state { HS_LEASED, HS_REVOKED, HS_RELEASED, HS_LEASE_ERROR };

struct hs_lease {
    enum hs_lease_state state;
    uint8_t buffer[3 + HS_MAX_LENGTH];
    size_t have;
};

typedef void hs_on_notice(int kind, const uint8_t *text, size_t size, void *context);

void hs_lease_start(struct hs_lease *lease);

/* Feeds bytes of the lease; size 0 is end-of-file. Calls on_notice for each drain (1) and revoked (2). */
enum hs_lease_state hs_lease_feed(
    struct hs_lease *lease, const uint8_t *data, size_t size, hs_on_notice *on_notice, void *context);

#endif
