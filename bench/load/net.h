/* Addresses, sockets and the optional prologue: everything the modes do before their first measured byte. */
#ifndef LOAD_NET_H
#define LOAD_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

struct address {
    struct sockaddr_storage at;
    socklen_t size;
    const char *text; /* as the user wrote it, for messages */
};

/* What a client says first: the Meshless handshake if a service is named (version 1, or 2 with the offer to receive the
 * service's socket), then the role byte for our server. */
struct prologue {
    uint8_t bytes[3 + 1 + 255 + 3 + 1];
    size_t size;      /* handshake request and role byte */
    size_t handshake; /* how many of these are the handshake request: 0 when there is none */
    bool hand_off;
};

enum { REPLY_BYTES = 1024, SOCKET_TIMEOUT_SECONDS = 10 };

/* The agent's answer as it arrives. */
struct reply {
    uint8_t bytes[REPLY_BYTES];
    size_t have;
    int descriptor; /* of the service's socket; -1 as long as there is none */
};

enum verdict { REPLY_INCOMPLETE, REPLY_OK, REPLY_REFUSED, REPLY_RELAYED, REPLY_LOST };

uint64_t now_ns(void);
double cpu_seconds(void); /* user and system time of this process */

/* Prints "load: <message>" and exits with status 1. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* `unix:/path` or `tcp:a.b.c.d:port`; dies on anything else. */
void parse_address(const char *text, struct address *out);
/* role is 0 for a server that is not ours (nothing is sent behind the handshake). */
void make_prologue(const char *service, bool hand_off, char role, struct prologue *out);
const char *reply_name(uint8_t code);
void reply_begin(struct reply *r);
/* Reads what is there, never beyond the reply. REPLY_RELAYED: yes, but without the descriptor that was asked for.
 * REPLY_LOST: end-of-file, an error (see errno), or bytes that are no reply. */
enum verdict reply_read(int fd, const struct prologue *first, struct reply *r);

int listen_at(const struct address *a);
void set_nonblocking(int fd, bool on);
void set_nodelay(int fd, const struct address *a);
void raise_descriptor_limit(void);
void add_to_epoll(int epoll, int fd, uint32_t events, void *data);
void change_in_epoll(int epoll, int fd, uint32_t events, void *data);

/* Connects, does the handshake, waits for its reply, sends the role. Blocking, with a time limit. Dies on failure. What it
 * returns after a hand-off is the service's socket; its lease stays open until the process ends. */
int open_connection(const struct address *to, const struct prologue *first);

#endif
