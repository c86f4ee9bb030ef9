/* The options all modes share, and the modes: each runs, prints one JSON line on standard output, returns the exit status. */
#ifndef LOAD_MODES_H
#define LOAD_MODES_H

#include <stdbool.h>
#include <stddef.h>

#include "net.h"

enum { MAX_LISTENERS = 16 };

struct options {
    struct address to;
    const char *service; /* NULL: no handshake */
    unsigned connections;
    size_t size;         /* bytes of a message */
    double seconds, warmup;
    const char *direction; /* of bulk: send, receive, both */
    bool hand_off;       /* speak version 2 of the handshake and insist on being given the service's socket */
    bool verify, plain;  /* plain: the server is not ours, send no role byte */
    struct address at[MAX_LISTENERS];
    unsigned listeners;
    char role;           /* of the server: 0 when each connection names its own */
};

/* Roles a client asks our server for with its first byte. Upper case: the server compares what it receives. */
enum { ROLE_ECHO = 'e', ROLE_SINK = 's', ROLE_SOURCE = 'g', ROLE_SINK_VERIFY = 'S', ROLE_SOURCE_VERIFY = 'G' };

int run_server(const struct options *o);
int run_echo(const struct options *o);
int run_bulk(const struct options *o);
int run_connect(const struct options *o);
int run_idle(const struct options *o);

#endif
