/* What the runner needs of its surroundings: pipes and memory, of an operating system or of a bare machine. */
#ifndef RUNNER_H
#define RUNNER_H

#include <stdint.h>

enum { RUNNER_NO_LEVEL = 3, RUNNER_BROKEN = 4 };

/* Memory starts at multiples of it, and kernels may read so many bytes past its end. */
#define RUNNER_SLACK 64

/* Serves requests until they end; returns an exit code. `level` is one of the program's, NULL for the best. */
int runner_serve(const char *level);

/* Ends the program with an exit code, after a line that says why. */
_Noreturn void runner_stop(int code, const char *problem);

/* Reads so many bytes; returns 0, or -1 where the requests end before the first one. */
int runner_get(void *to, int64_t bytes);
void runner_put(const void *from, int64_t bytes);
void runner_flush(void);

/* Cleared memory at a multiple of RUNNER_SLACK, with so many readable bytes behind what is asked for. */
void *runner_take(int64_t bytes);
/* What was taken so far is kept for good. */
void runner_keep(void);
/* Everything that was taken since is free again. */
void runner_release(void);

#endif
