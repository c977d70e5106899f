/* Four callers share the pool of threads.c, with jobs inside of jobs, idle times and child processes. */
#include "qc.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CELLS = 64, ROUNDS = 1500 };

typedef struct {
    const qc_context *context;
    int64_t *cells;
} stress_job;

static void add_numbers(const void *argument, int index, int count)
{
    const stress_job *job = argument;
    for (int k = CELLS * index / count; k < CELLS * (index + 1) / count; k++)
        job->cells[k] += k;
}

static void add_inner_job(const void *argument, int index, int count)
{
    const stress_job *job = argument;
    int64_t cells[CELLS] = {0};
    const stress_job inner = {job->context, cells};
    qc_parallel(job->context, add_numbers, &inner, INT64_MAX);
    for (int k = CELLS * index / count; k < CELLS * (index + 1) / count; k++)
        job->cells[k] += cells[k];
}

/* Returns NULL when every part of every job ran once. */
static void *call_often(void *argument)
{
    const int caller = *(const int *)argument;
    for (int round = 0; round < ROUNDS; round++) {
        const qc_context context = {qc_pool_acquire(1 + (caller + round) % 5, INT64_MAX), NULL};
        int64_t cells[CELLS] = {0};
        const stress_job job = {&context, cells};
        for (int i = 0; i < 4; i++)
            qc_parallel(&context, add_numbers, &job, INT64_MAX);
        qc_parallel(&context, add_inner_job, &job, INT64_MAX);
        if (context.threads > 1)
            qc_pool_release();
        for (int k = 0; k < CELLS; k++)
            if (cells[k] != 5 * k)
                return argument;
        if (round % 300 == 0)
            usleep(500); /* long enough for workers to sleep */
    }
    return NULL;
}

int main(int count, char **words)
{
    const int children = count > 1 ? atoi(words[1]) : 0;
    static int numbers[] = {0, 1, 2, 3};
    pthread_t callers[4];
    int wrong = 0;
    for (int i = 0; i < 4; i++)
        pthread_create(&callers[i], NULL, call_often, &numbers[i]);
    for (int i = 0; i < children; i++) {
        const pid_t child = fork();
        if (child == 0)
            _exit(call_often(&numbers[3]) != NULL);
        int status = 1;
        waitpid(child, &status, 0);
        wrong |= status;
    }
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(callers[i], &failed);
        wrong |= failed != NULL;
    }
    puts(wrong ? "wrong" : "right");
    return wrong;
}
