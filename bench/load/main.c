/* load: generates load over Unix and TCP stream sockets and measures what a user of them sees. See --help. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"
#include "histogram.h"
#include "modes.h"

static const char help[] =
    "load MODE [options]: measure stream sockets; prints one JSON object per line\n"
    "\n"
    "  echo       ping-pong of --size bytes on --connections connections: messages per second, latency\n"
    "  bulk       as many bytes as go through on --connections connections, --direction send, receive or both\n"
    "  connect    new connections per second, --connections at a time: connect, handshake, one byte echoed, close\n"
    "  idle       open --connections connections and hold them until standard input ends\n"
    "  serve      the far end of all of these, at one or more --at addresses\n"
    "  histogram  percentiles of the whole numbers on standard input (checks the arithmetic)\n"
    "\n"
    "  --to ADDRESS        unix:/path or tcp:127.0.0.1:port\n"
    "  --at ADDRESS        where to serve; may be repeated\n"
    "  --service ID        speak the Meshless handshake, version 1, for this service id; without it none is spoken\n"
    "  --hand-off          with --service: version 2, and insist on being given the service's socket itself\n"
    "  --connections N     default 1\n"
    "  --size BYTES        of a message of echo, 1 to 65536, default 64\n"
    "  --seconds S         length of the measurement, default 1\n"
    "  --warmup S          of echo, before the measurement, default 0\n"
    "  --direction D       of bulk, default send\n"
    "  --verify            of bulk: compare every byte, not only the counts\n"
    "  --plain             of echo, connect, idle: the far end is an ordinary echo server, not `load serve`\n"
    "  --role ROLE         of serve: echo, sink or source instead of what each connection's first byte says\n"
    "\n"
    "exit status: 0 measured, 1 failed (connection refused, cut, bytes lost or changed), 2 wrong usage\n";

static _Noreturn void usage(const char *what, const char *value)
{
    fprintf(stderr, "load: %s%s%s; `load --help` shows the usage\n", what, value ? " " : "", value ? value : "");
    exit(2);
}

static double number(const char *option, const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= low && value <= high)) {
        fprintf(stderr, "load: %s %s: write a number from %g to %g\n", option, text, low, high);
        exit(2);
    }
    return value;
}

static char role_named(const char *text)
{
    if (strcmp(text, "echo") == 0)
        return ROLE_ECHO;
    if (strcmp(text, "sink") == 0)
        return ROLE_SINK;
    if (strcmp(text, "source") == 0)
        return ROLE_SOURCE;
    usage("unknown role", text);
}

static int run_histogram(void)
{
    static struct histogram h;
    unsigned long long value;
    int read;
    while ((read = scanf("%llu", &value)) == 1)
        histogram_add(&h, value);
    if (read != EOF)
        usage("standard input must hold whole numbers only", NULL);
    histogram_json(&h, stdout);
    putchar('\n');
    return 0;
}

static void parse(int argc, char **argv, struct options *o)
{
    static const struct option known[] = {
        {"to", required_argument, NULL, 't'},        {"at", required_argument, NULL, 'a'},
        {"service", required_argument, NULL, 's'},   {"connections", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 'z'},      {"seconds", required_argument, NULL, 'T'},
        {"warmup", required_argument, NULL, 'w'},    {"direction", required_argument, NULL, 'd'},
        {"verify", no_argument, NULL, 'v'},          {"plain", no_argument, NULL, 'p'},
        {"role", required_argument, NULL, 'r'},      {"hand-off", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 't': parse_address(optarg, &o->to); break;
        case 'a':
            if (o->listeners == MAX_LISTENERS)
                usage("too many --at, the most is 16, at", optarg);
            parse_address(optarg, &o->at[o->listeners++]);
            break;
        case 's': o->service = optarg; break;
        case 'c': o->connections = (unsigned)number("--connections", optarg, 1, 1e6); break;
        case 'z': o->size = (size_t)number("--size", optarg, 1, 65536); break;
        case 'T': o->seconds = number("--seconds", optarg, 0.001, 86400); break;
        case 'w': o->warmup = number("--warmup", optarg, 0, 3600); break;
        case 'd':
            if (strcmp(optarg, "send") != 0 && strcmp(optarg, "receive") != 0 && strcmp(optarg, "both") != 0)
                usage("unknown direction", optarg);
            o->direction = optarg;
            break;
        case 'h': o->hand_off = true; break;
        case 'v': o->verify = true; break;
        case 'p': o->plain = true; break;
        case 'r': o->role = role_named(optarg); break;
        default: usage("wrong option", NULL);
        }
    }
    if (optind < argc)
        usage("unexpected argument", argv[optind]);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct options *);
    } modes[] = {{"echo", run_echo}, {"bulk", run_bulk}, {"connect", run_connect}, {"idle", run_idle}};
    struct options o = {.connections = 1, .size = 64, .seconds = 1, .direction = "send"};
    if (argc < 2)
        usage("name a mode", NULL);
    const char *mode = argv[1];
    if (strcmp(mode, "--help") == 0) {
        fputs(help, stdout);
        return 0;
    }
    parse(argc - 1, argv + 1, &o);
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    frames_init();
    if (strcmp(mode, "histogram") == 0)
        return run_histogram();
    if (strcmp(mode, "serve") == 0) {
        if (o.listeners == 0)
            usage("serve needs --at", NULL);
        return run_server(&o);
    }
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(mode, modes[i].name) != 0)
            continue;
        if (o.to.size == 0)
            usage("--to is missing for", mode);
        return modes[i].run(&o);
    }
    usage("unknown mode", mode);
}
