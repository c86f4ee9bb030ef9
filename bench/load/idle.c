/* Opens connections, shows that each works by having one byte echoed, and holds them until standard input ends, so that
 * someone else can read what they cost. Prints one line when all are open and one when done. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "modes.h"

int run_idle(const struct options *o)
{
    struct prologue first;
    make_prologue(o->service, o->hand_off, o->plain ? 0 : ROLE_ECHO, &first);
    int *held = calloc(o->connections, sizeof *held);
    if (held == NULL)
        die("out of memory");
    for (unsigned i = 0; i < o->connections; i++) {
        char byte = 'x';
        held[i] = open_connection(&o->to, &first);
        if (send(held[i], &byte, 1, MSG_NOSIGNAL) != 1 || recv(held[i], &byte, 1, 0) != 1 || byte != 'x')
            die("connection %u of %u to %s does not echo: %s", i + 1, o->connections, o->to.text, strerror(errno));
    }
    printf("{\"event\":\"open\",\"connections\":%u}\n", o->connections);
    fflush(stdout);
    char ignored[256];
    while (read(STDIN_FILENO, ignored, sizeof ignored) > 0)
        continue;
    unsigned dead = 0; /* a connection that was cut while idle reads as ended or broken instead of empty */
    for (unsigned i = 0; i < o->connections; i++) {
        char byte;
        ssize_t n = recv(held[i], &byte, 1, MSG_DONTWAIT);
        dead += !(n < 0 && errno == EAGAIN);
        close(held[i]);
    }
    printf("{\"mode\":\"idle\",\"connections\":%u,\"dead\":%u}\n", o->connections, dead);
    if (dead > 0)
        fprintf(stderr, "load: %u of %u idle connections to %s were cut\n", dead, o->connections, o->to.text);
    return dead > 0;
}
