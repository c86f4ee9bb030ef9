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

/* What a client says first: the Meshless handshake (version 1) if a service is named, then the role byte for our server. */
struct prologue {
    uint8_t bytes[2 + 255 + 1];
    size_t size;      /* handshake request and role byte */
    size_t handshake; /* how many of these are the handshake request: 0 when there is none */
};

enum { HANDSHAKE_REPLY_BYTES = 2, SOCKET_TIMEOUT_SECONDS = 10 };

uint64_t now_ns(void);
double cpu_seconds(void); /* user and system time of this process */

/* Prints "load: <message>" and exits with status 1. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* `unix:/path` or `tcp:a.b.c.d:port`; dies on anything else. */
void parse_address(const char *text, struct address *out);
/* role is 0 for a server that is not ours (nothing is sent behind the handshake). */
void make_prologue(const char *service, char role, struct prologue *out);
const char *reply_name(uint8_t code);

int listen_at(const struct address *a);
void set_nonblocking(int fd, bool on);
void set_nodelay(int fd, const struct address *a);
void raise_descriptor_limit(void);
void add_to_epoll(int epoll, int fd, uint32_t events, void *data);
void change_in_epoll(int epoll, int fd, uint32_t events, void *data);

/* Connects, does the handshake, waits for its reply, sends the role. Blocking, with a time limit. Dies on failure. */
int open_connection(const struct address *to, const struct prologue *first);

#endif
