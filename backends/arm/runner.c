/* Runs a program for another process, which sends requests to the standard input and reads answers from the
 * standard output. Numbers are 64 bits, in the order of the machine's bytes.
 *
 *     runner CONSTANTS [LEVEL]     answers the name of the level at first: its length, then the letters
 *
 * A request is a header, the symbols, the bytes of each input and of each output, and then the inputs. The
 * answer is a status, the outputs when it is 0, and the nanoseconds of each operator if they are asked for.
 * Exit codes: 0 at the end of the requests, 3 for a processor without the program's instructions, 4 for a
 * problem with memory, files or pipes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLACK 64
enum { NO_LEVEL = 3, BROKEN = 4 };
enum { RUN = 0, OPERATOR = 1 };

void qc_init(const uint8_t *blob);
int qc_select(const char *name);
const char *qc_level(void);
int64_t qc_arena_size(const int64_t *symbols, int threads);
int qc_run(const int64_t *symbols, const void *const *inputs, void *const *outputs, void *arena, int threads,
           int64_t *times);
int qc_op(int index, const int64_t *symbols, void *const *operands, int threads);

/* `over` is the input over which an operator writes its result, -1 for memory of its own; `times` is the number
 * of operators whose nanoseconds are wanted. */
typedef struct {
    int64_t command, index, threads, symbols, inputs, outputs, over, times;
} request;

_Noreturn static void stop(const char *problem)
{
    fprintf(stderr, "runner: %s\n", problem);
    exit(BROKEN);
}

static void get(void *to, int64_t bytes)
{
    if (bytes && fread(to, 1, (size_t)bytes, stdin) != (size_t)bytes)
        stop("a request is incomplete");
}

static void put(const void *from, int64_t bytes)
{
    if (bytes && fwrite(from, 1, (size_t)bytes, stdout) != (size_t)bytes)
        stop("an answer cannot be written");
}

/* Memory at a multiple of 64, with so many readable bytes behind what is asked for; cleared. */
static void *take(int64_t bytes)
{
    const size_t size = ((size_t)bytes + 2 * SLACK - 1) / SLACK * SLACK;
    void *memory = aligned_alloc(SLACK, size);
    if (!memory)
        stop("out of memory");
    return memset(memory, 0, size);
}

static const uint8_t *read_constants(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        stop("the constants cannot be read");
    const long size = ftell(file);
    rewind(file);
    uint8_t *bytes = take(size);
    if (fread(bytes, 1, (size_t)size, file) != (size_t)size)
        stop("the constants cannot be read");
    fclose(file);
    return bytes;
}

/* What count.c looks for: calls of these stand around an operator. */
__attribute__((noinline)) void runner_begin(void);
__attribute__((noinline)) void runner_end(void);

void runner_begin(void)
{
    __asm__ volatile("" ::: "memory");
}

void runner_end(void)
{
    __asm__ volatile("" ::: "memory");
}

/* Returns the status of a request whose values are in place. */
static int64_t compute(const request *r, const int64_t *symbols, void **values, int64_t *times)
{
    if (r->command == OPERATOR) {
        runner_begin();
        const int status = qc_op((int)r->index, symbols, values, (int)r->threads);
        runner_end();
        return status;
    }
    void *arena = take(qc_arena_size(symbols, (int)r->threads));
    const int status = qc_run(symbols, (const void *const *)values, values + r->inputs, arena, (int)r->threads, times);
    free(arena);
    return status;
}

static void answer(const request *r)
{
    const int64_t count = r->inputs + r->outputs;
    int64_t *symbols = take((r->symbols + 1) * (int64_t)sizeof *symbols);
    int64_t *sizes = take((count + 1) * (int64_t)sizeof *sizes);
    int64_t *times = r->times ? take(r->times * (int64_t)sizeof *times) : NULL;
    void **values = take((count + 1) * (int64_t)sizeof *values);
    get(symbols, r->symbols * (int64_t)sizeof *symbols);
    get(sizes, count * (int64_t)sizeof *sizes);
    for (int64_t i = 0; i < count; i++)
        values[i] = i == r->inputs && r->over >= 0 ? values[r->over] : take(sizes[i]);
    for (int64_t i = 0; i < r->inputs; i++)
        get(values[i], sizes[i]);
    const int64_t status = compute(r, symbols, values, times);
    put(&status, sizeof status);
    for (int64_t i = r->inputs; i < count && !status; i++)
        put(values[i], sizes[i]);
    if (times && !status)
        put(times, r->times * (int64_t)sizeof *times);
    fflush(stdout);
    for (int64_t i = 0; i < count; i++)
        if (i != r->inputs || r->over < 0)
            free(values[i]);
    free(values);
    free(times);
    free(sizes);
    free(symbols);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        stop("give the file of the constants");
    if (argc > 2 && qc_select(argv[2])) {
        fprintf(stderr, "runner: this processor lacks the level %s, or the program does not carry it\n", argv[2]);
        return NO_LEVEL;
    }
    if (!qc_level()) {
        fprintf(stderr, "runner: this processor has none of the instruction sets of the program\n");
        return NO_LEVEL;
    }
    qc_init(read_constants(argv[1]));
    const int64_t length = (int64_t)strlen(qc_level());
    put(&length, sizeof length);
    put(qc_level(), length);
    fflush(stdout);
    request r;
    while (fread(&r, sizeof r, 1, stdin) == 1)
        answer(&r);
    return 0;
}
