/* SPDX-License-Identifier: Apache-2.0 */
#include "model/positions.h"

#include <assert.h>
#include <stdbool.h>

/* Text runs advance by one a token; an image takes the position of its top left cell and
 * advances by its longer side:
 *
 *     token   0 1 2 | 3 4 5 6 7 8 | 9 10          image of 2 x 3 cells
 *     t       0 1 2 | 3 3 3 3 3 3 | 6  7
 *     h       0 1 2 | 3 3 3 4 4 4 | 6  7
 *     w       0 1 2 | 3 4 5 3 4 5 | 6  7 */
void agl_positions_fill(int32_t *t, int32_t *h, int32_t *w, size_t first, size_t count,
                        const agl_image_span *images, size_t image_count)
{
    size_t end = first + count;
    size_t token = 0;       /* walks the sequence from its start, run by run */
    int32_t position = 0;   /* of `token` */
    for (size_t i = 0; i <= image_count && token < end; i++) {
        bool is_last = i == image_count;
        assert(is_last || images[i].first_token >= token);
        size_t text_end = is_last || images[i].first_token > end ? end : images[i].first_token;
        for (size_t at = token > first ? token : first; at < text_end; at++) {
            t[at - first] = h[at - first] = w[at - first] = position + (int32_t)(at - token);
        }
        position += (int32_t)(text_end - token);
        token = text_end;
        if (is_last || token == end) break;

        int32_t rows = images[i].rows, columns = images[i].columns;
        size_t cells = (size_t)rows * (size_t)columns;
        size_t image_end = token + cells < end ? token + cells : end;
        for (size_t at = token > first ? token : first; at < image_end; at++) {
            int32_t cell = (int32_t)(at - token);
            t[at - first] = position;
            h[at - first] = position + cell / columns;
            w[at - first] = position + cell % columns;
        }
        position += rows > columns ? rows : columns;
        token += cells;
    }
}
